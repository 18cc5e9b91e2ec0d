"""What of a data set's files enters the keys of results: a digest of their names, sizes and contents."""

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from workloads.data.cache import cache_folder, replacing

FINGERPRINTED_FILES, FINGERPRINTED_BYTES = 256, 1 << 29
SETTLED = 2.0  # seconds: a file that was written just before it was read may change again within one tick of its clock
ANNOUNCED_BYTES = 10 << 30
READERS = 8

Stamp = tuple[int, int, int, int]


def fingerprint_of(files: Sequence[Path], root: Path) -> str:
    """A digest of the files' names, sizes and contents, so that a moved folder keeps its results.

    Every byte counts. The few files of a small set are read each time; of a large set (`FINGERPRINTED_FILES` files, or
    one of more than its share of twice `FINGERPRINTED_BYTES`) each file is read once, see `content_digests`.

    Args:
        files: in the order in which they are read.
        root: the folder that their names are relative to.

    Raises:
        FileNotFoundError: a link that leads to nothing.
    """
    names, stamps = _names(files, root), [_stamp(file) for file in files]
    sizes = [size for size, *_ in stamps]
    total = hashlib.sha256()
    for name, size in zip(names, sizes, strict=True):
        total.update(os.fsencode(f"{name} {size} "))
    share = 2 * (FINGERPRINTED_BYTES // max(1, len(files)))
    if len(files) < FINGERPRINTED_FILES and max(sizes, default=0) <= share:
        for file in files:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    total.update(block)
    else:
        total.update(b"digests")
        for digest in content_digests(files, names, stamps, root):
            total.update(digest.encode())
    return total.hexdigest()[:16]


def joined(*marks: str) -> str:
    """One fingerprint of several."""
    return hashlib.sha256(" ".join(marks).encode()).hexdigest()[:16]


def settled_stamps(files: Sequence[Path], least: int) -> str:
    """What tells that files are still those that were read; empty for less than so many bytes, or just written ones."""
    stamps = [(str(file.absolute()), *_stamp(file)) for file in files]
    newest = max((max(stamp[2:4]) for stamp in stamps), default=0)
    if sum(stamp[1] for stamp in stamps) < least or newest > (time.time() - SETTLED) * 1e9:
        return ""
    return repr(stamps)


def content_digests(files: Sequence[Path], names: Sequence[str], stamps: Sequence[Stamp], root: Path) -> list[str]:
    """SHA-256 of each file's content, read once.

    Digests are kept in the cache folder and hold as long as a file's size, times and inode stay what they were. The
    time of its last change of status is among them, which no tool that sets back the time of a modification can set.

    Args:
        names: of the files, relative to `root`.
        stamps: what tells that a file is still the one that was read.
    """
    began = time.time()
    place = cache_folder() / "digests" / f"{hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:16]}.parquet"
    known = _known(place)
    unread = [
        number
        for number, (name, stamp) in enumerate(zip(names, stamps, strict=True))
        if known.get(name, (None, ""))[0] != stamp
    ]
    size = sum(stamps[number][0] for number in unread)
    if size > ANNOUNCED_BYTES:
        logging.getLogger(__name__).warning(
            "%d files under %s (%.0f GiB) are read once, to know their content", len(unread), root, size / 2**30
        )
    with ThreadPoolExecutor(READERS) as readers:
        found = dict(zip(unread, readers.map(_digest, [files[number] for number in unread]), strict=True))
    digests = [found.get(number) or known[name][1] for number, name in enumerate(names)]
    if unread:
        settled = {
            names[number]: (stamps[number], digest)
            for number, digest in found.items()
            if max(stamps[number][1:3]) < (began - SETTLED) * 1e9
        }
        with contextlib.suppress(OSError):  # without it they are read again
            _keep(place, {**known, **settled})
    return digests


def _names(files: Sequence[Path], root: Path) -> list[str]:
    """The files' names relative to a folder; faster than `Path.relative_to`, which counts for a million files."""
    prefix = f"{root}{os.sep}"
    texts = zip(files, map(str, files), strict=True)
    return [
        text.removeprefix(prefix) if text.startswith(prefix) else str(file.relative_to(root)) for file, text in texts
    ]


def _stamp(file: Path) -> Stamp:
    """Size, time of modification, time of change of status, and inode."""
    try:
        found = os.stat(file)
    except FileNotFoundError as error:
        if file.is_symlink():
            raise FileNotFoundError(
                f"'{file}' is a link to '{os.readlink(file)}', which is not there: fetch it, or remove the link"
            ) from error
        raise
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _known(place: Path) -> dict[str, tuple[Stamp, str]]:
    """What was kept of an earlier reading, by name; nothing where there is none or it is damaged."""
    try:
        rows = pq.ParquetFile(place).read().to_pydict()
        stamps = zip(rows["size"], rows["modified"], rows["changed"], rows["inode"], strict=True)
        return dict(zip(map(os.fsdecode, rows["name"]), zip(stamps, rows["digest"], strict=True), strict=True))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return {}


def _keep(place: Path, known: Mapping[str, tuple[Stamp, str]]) -> None:
    stamps = [stamp for stamp, _ in known.values()]
    columns = {
        "name": pa.array(map(os.fsencode, known), pa.binary()),
        "size": pa.array([stamp[0] for stamp in stamps], pa.int64()),
        "modified": pa.array([stamp[1] for stamp in stamps], pa.int64()),
        "changed": pa.array([stamp[2] for stamp in stamps], pa.int64()),
        "inode": pa.array([stamp[3] for stamp in stamps], pa.uint64()),
        "digest": pa.array([digest for _, digest in known.values()], pa.string()),
    }
    with replacing(place) as file:
        pq.write_table(pa.table(columns), file)
