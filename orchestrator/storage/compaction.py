"""Merging the small files of a table into few, without a moment in which a reader or a crash loses or doubles a row.

A merged file appears whole and names in its metadata the files that it replaces. From then on `Store.read_table` passes
over those; they are deleted next. Who dies in between leaves files that are passed over now and deleted next time.
"""

import hashlib
import json
from collections.abc import Callable, Iterator

import pyarrow as pa
from pyarrow import fs

from orchestrator.storage.parquet import parquet_bytes
from orchestrator.storage.schema import SCHEMAS, identity
from orchestrator.storage.store import MERGED, REPLACES, Store

MANY_FILES = 64
FILE_BYTES = 32 * 1024**2
SHARED = ("settings",)  # long texts that many rows share
# The files of the others are replaced or deleted by name.
TABLES = tuple(table for table in SCHEMAS if table not in ("plan", "failures"))


def compact(store: Store, table: str, beat: Callable[[], None] = lambda: None) -> None:
    """Merge the files of a table where they are many or hold a row twice.

    Args:
        beat: called every now and then meanwhile.
    """
    current, replaced = store.shards(table)
    _delete(store, table, replaced, beat)
    if _doubled(store, table):
        merge(store, table, current, beat)
        return
    sizes = _sizes(store, table)
    small = [name for name in current if sizes[name] < FILE_BYTES]
    if len(small) > MANY_FILES:
        for part in _parts(small, sizes):
            merge(store, table, part, beat)


def merge(store: Store, table: str, names: list[str], beat: Callable[[], None] = lambda: None) -> None:
    """Write the rows of these files as one, each once, and delete the files."""
    replaced = sorted({*names}.union(*(store.replaced_by(table, name) for name in names)))
    schema = SCHEMAS[table].with_metadata({REPLACES: json.dumps(replaced)})
    rows = store.read_shards(table, names, coded=[name for name in SHARED if name in schema.names])
    rows = rows.filter(pa.array(~rows.select(identity(table)).to_pandas().duplicated()))
    content = parquet_bytes([rows], schema)
    digest = hashlib.sha256(" ".join(replaced).encode()).hexdigest()[:20]
    store.write(content, "results", table, f"{MERGED}{digest}.parquet")
    _delete(store, table, names, beat)


def _delete(store: Store, table: str, names: list[str], beat: Callable[[], None]) -> None:
    for name in names:
        beat()
        store.delete("results", table, name)


def _doubled(store: Store, table: str) -> bool:
    return bool(store.read_table(table, identity(table)).to_pandas().duplicated().any())


def _sizes(store: Store, table: str) -> dict[str, int]:
    selector = fs.FileSelector(store.path("results", table), allow_not_found=True)
    return {info.base_name: info.size for info in store.files.get_file_info(selector)}


def _parts(names: list[str], sizes: dict[str, int]) -> Iterator[list[str]]:
    """Consecutive names, as many as make a file of useful size."""
    part: list[str] = []
    size = 0
    for name in names:
        part.append(name)
        size += sizes[name]
        if size >= FILE_BYTES:
            yield part
            part, size = [], 0
    if len(part) > 1:
        yield part
