"""Where a run lives: networks and result tables on any file system that pyarrow reaches.

A file is written under a temporary name and renamed when whole (object stores show an object only when it is
whole). A stage is done when its row is in the `timings` table, which is written last.
"""

import contextlib
import errno
import json
import os
import re
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from orchestrator.storage.parquet import coded_schema, parquet_bytes, rows_of, tables_of
from orchestrator.storage.schema import SCHEMA_VERSION, SCHEMAS

EXPERIMENT = "experiment.yaml"
MERGED = "merged-"
REPLACES = b"replaces"
READ_ATTEMPTS = 5
ELECTION_SECONDS = 1.0
RETRY_SECONDS = 60
MOST_LETTERS = 300  # of what others say of an error
PART_FILES = 64
READERS = 8


class StorageError(OSError):
    """The run cannot be written to, for instance because the disk is full."""


class GoneError(StorageError):
    """The run was there and is not any more."""

    @classmethod
    def of(cls, uri: str) -> "GoneError":
        """With a sentence about the run at `uri`."""
        return cls(
            f"run '{uri}' was there and is gone: it was moved or deleted. Move it back, or give its new place as "
            f"--out; what was done is in it"
        )


def checked_uri(uri: str) -> str:
    """The URI itself, which stands in results and logs, if no keys are in it.

    Raises:
        ValueError: it is of the form scheme://key:secret@place.
    """
    if re.search(r"://[^/]*:[^?]*@", uri):
        raise ValueError(
            "the storage URI holds credentials, which results and logs would show: leave them out and give them as "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in a profile, or by the role of the machines"
        )
    return uri


def local_folder(place: str | Path) -> Path:
    """A folder's whole path; `~` is the user's home.

    Raises:
        ValueError: it is a URI with a slash too few, or in the home of somebody whom this machine does not know.
    """
    if match := re.match(r"([a-z][a-z0-9+.-]+):/(?!/)", str(place)):
        raise ValueError(f"storage '{place}' is neither a folder nor a URI: write {match[1]}://")
    try:
        return Path(place).expanduser().absolute()
    except RuntimeError as error:
        raise ValueError(
            f"storage '{place}': this machine has no such user; a folder of that name is ./{place}"
        ) from error


def with_time_limit(uri: str) -> str:
    """The URI with a limit on how long Google's client tries again, 15 minutes unless told otherwise."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={RETRY_SECONDS}"


def place_parts(uri: str | Path) -> list[str]:
    """The parts of the path of a folder or URI, without the URI's parameters."""
    place = str(uri)
    return [part for part in (place.partition("?")[0] if "://" in place else place).split("/") if part]


def folder_name(uri: str | Path) -> str:
    """The last part of a folder's path or URI: the run's name."""
    return place_parts(uri)[-1]


class Store:
    """The files of one run.

    Args:
        uri: a folder, or a URI such as s3://bucket/runs/name; pyarrow's parameters, for instance
            ?endpoint_override=http://host:9000, may follow.

    Raises:
        ValueError: a URI of a scheme that pyarrow does not know, of no bucket, or with a password in it.
    """

    def __init__(self, uri: str | Path):
        self.uri = checked_uri(str(uri))
        try:
            if "://" in self.uri:
                self.files, self.root = fs.FileSystem.from_uri(with_time_limit(self.uri))
            else:
                self.files, self.root = fs.LocalFileSystem(), str(local_folder(self.uri))
            bucket = self.root.partition("/")[0]
            there = not bucket or self.files.get_file_info(bucket).type != fs.FileType.NotFound
            found = self.files.get_file_info(self.root).type
        except pa.ArrowInvalid as error:
            raise ValueError(
                f"storage '{self.uri}' cannot be used ({error}): give a folder or an s3:// or gs:// URI"
            ) from error
        except OSError as error:
            raise ValueError(
                f"storage '{self.uri}' cannot be used ({' '.join(str(error).split())[:MOST_LETTERS]}): check its name, "
                f"the network, and the keys of this machine"
            ) from error
        if not there:
            raise ValueError(f"storage '{self.uri}' cannot be used: there is no bucket '{bucket}'")
        if found == fs.FileType.File:
            raise ValueError(f"storage '{self.uri}' is a file: give a folder")
        self.seen = found == fs.FileType.Directory

    def path(self, *parts: str) -> str:
        """The full path of a file of the run."""
        return "/".join((self.root, *parts))

    def exists(self, *parts: str) -> bool:
        """Whether a file or folder is there."""
        return bool(self.files.get_file_info(self.path(*parts)).type != fs.FileType.NotFound)

    def write(self, content: bytes, *parts: str) -> None:
        """Write a file so that it is there whole or not at all.

        Raises:
            GoneError: the run was there before, in a folder, and is gone.
            StorageError: it cannot be written.
        """
        try:
            self._write(content, self.path(*parts))
        except GoneError:
            raise
        except OSError as error:
            closed = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
            remedy = ": let it be written to, or copy the run and give the copy as --out" if closed else ""
            raise StorageError(f"'{self.path(*parts)}' cannot be written: {error}{remedy}") from error

    def _write(self, content: bytes, target: str) -> None:
        folder, _, name = target.rpartition("/")
        if not isinstance(self.files, fs.LocalFileSystem):
            with self.files.open_output_stream(target) as stream:
                stream.write(content)
            return
        if self.seen and not os.path.isdir(self.root):
            raise GoneError.of(self.uri)  # a folder made anew would hold the rest of the results alone
        self.files.create_dir(folder)
        self.seen = True
        temporary = f"{folder}/.{name}.{uuid.uuid4().hex[:8]}.tmp"
        try:
            with open(temporary, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            self.files.move(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                self.files.delete_file(temporary)
            raise

    def check_there(self) -> None:
        """Make sure that the run, which has begun, is still there.

        Raises:
            GoneError: it is not.
        """
        if not self.exists(EXPERIMENT):
            raise GoneError.of(self.uri)

    def write_once(self, content: bytes, *parts: str) -> None:
        """Write a file unless it is there already; of several writers at a time, one's stays, and all return after it.

        Raises:
            StorageError: it cannot be written.
        """
        if self.exists(*parts):
            return
        *folder, name = parts
        if not isinstance(self.files, fs.LocalFileSystem):
            self._write_if_elected(content, folder, name)
            return
        temporary = [*folder, f".{name}.{uuid.uuid4().hex[:8]}.tmp"]
        self.write(content, *temporary)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(self.path(*temporary), self.path(*parts))
        except OSError:  # a file system without links
            self.write(content, *parts)
        finally:
            self.delete(*temporary)

    def _write_if_elected(self, content: bytes, folder: list[str], name: str) -> None:
        """The same on an object store, which cannot refuse a second writer.

        Each writer shows itself by a file, and waits until those have done so too who found nothing when it did. Then
        the first of them by name writes. The others wait for it; one that does not write in time is taken for dead.
        """
        mine = f".{name}.{uuid.uuid4().hex}.writer"
        self.write(b"", *folder, mine)
        try:
            time.sleep(ELECTION_SECONDS)
            listed = self.files.get_file_info(fs.FileSelector(self.path(*folder)))
            writers = [i.base_name for i in listed if i.base_name.startswith(f".{name}.")]
            deadline = time.monotonic() + 10 * ELECTION_SECONDS
            while not self.exists(*folder, name):
                if mine == min(writers, default=mine) or time.monotonic() > deadline:
                    self.write(content, *folder, name)
                else:
                    time.sleep(ELECTION_SECONDS / 4)
        finally:
            self.delete(*folder, mine)

    def read(self, *parts: str) -> bytes:
        """The content of a file; FileNotFoundError where there is none."""
        with self.files.open_input_stream(self.path(*parts)) as stream:
            return bytes(stream.read())

    def delete(self, *parts: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self.files.delete_file(self.path(*parts))

    def seconds_since_written(self, *parts: str) -> float:
        """How old a file is by the clock of the storage, which writes another file for comparison.

        The clocks of hosts may differ. Where the storage cannot be written to, that of this host has to do; a file
        that is not there is infinitely old.
        """
        probe = (*parts[:-1], f".{parts[-1]}.{uuid.uuid4().hex[:8]}.now")
        now = time.time_ns()
        with contextlib.suppress(OSError):
            self.write(b"", *probe)
            now = self.files.get_file_info(self.path(*probe)).mtime_ns or now
            self.delete(*probe)
        written = self.files.get_file_info(self.path(*parts)).mtime_ns
        return float("inf") if written is None else (now - written) / 1e9

    def holds_others_files(self) -> str | None:
        """The name of a file or folder in a place that is not empty and has never been a run's; None for all others.

        What is hidden does not count.
        """
        selector = fs.FileSelector(self.root, allow_not_found=True)
        names = sorted(i.base_name for i in self.files.get_file_info(selector) if not i.base_name.startswith("."))
        ours = any(self.exists(*place) for place in (("results", "plan"), ("results", "timings"), ("driver.json",)))
        return names[0] if names and not ours else None

    def names(self, *folder: str) -> set[str]:
        """Names of the finished files in a folder; empty where there is no folder."""
        selector = fs.FileSelector(self.path(*folder), allow_not_found=True)
        return {i.base_name for i in self.files.get_file_info(selector) if i.is_file and i.base_name[0] not in "._"}

    def write_network(self, key: str, content: bytes) -> None:
        """Keep a stage's network."""
        self.write(content, "artifacts", f"{key}.safetensors")

    def read_network(self, key: str) -> tuple[bytes, str]:
        """A stage's network and where it lies, for messages."""
        parts = ("artifacts", f"{key}.safetensors")
        return self.read(*parts), self.path(*parts)

    def network_keys(self) -> set[str]:
        """Keys of the stages whose networks are kept."""
        return {name.removesuffix(".safetensors") for name in self.names("artifacts")}

    def write_rows(self, table: str, shard: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write rows as one shard of a table; the same shard again replaces it.

        Raises:
            ValueError: a row has a column that the table does not.
        """
        self.write(parquet_bytes(tables_of(table, rows), SCHEMAS[table]), "results", table, f"{shard}.parquet")

    def read_table(self, table: str, columns: list[str] | None = None, coded: Collection[str] = ()) -> pa.Table:
        """All rows of a table; empty where there are none yet.

        Args:
            columns: names; None is all.
            coded: columns of text that come as codes, see `orchestrator.storage.parquet.rows_of`.

        Raises:
            ValueError: a file in the table's folder is not Parquet, is damaged, has columns of other types, or was
                written by something else or by a newer metaprune. Columns that an older one did not write are null.
        """
        try:
            for _ in range(READ_ATTEMPTS):
                with contextlib.suppress(FileNotFoundError):  # merged into another since the folder was listed
                    return self.read_shards(table, self.shards(table)[0], columns, coded)
            return self.read_shards(table, self.shards(table)[0], columns, coded)
        except (pa.ArrowException, OSError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(
                f"table '{table}' of run '{self.uri}' cannot be read: {reason}: if a file of it is damaged, delete the "
                f"file and run again, which makes anew what it held"
            ) from error

    def read_shards(
        self, table: str, names: list[str], columns: list[str] | None = None, coded: Collection[str] = ()
    ) -> pa.Table:
        """The rows of these files of a table."""
        schema = SCHEMAS[table]
        chosen = columns or schema.names
        if not names:
            return coded_schema(schema, chosen, coded).empty_table()
        asked = [*dict.fromkeys([*chosen, "schema_version"])]
        parts = []
        with ThreadPoolExecutor(READERS) as readers:
            for start in range(0, len(names), PART_FILES):
                read = readers.map(partial(self._rows_of, table, asked, coded), names[start : start + PART_FILES])
                parts.append(pa.concat_tables(read).unify_dictionaries().combine_chunks())
        rows = pa.concat_tables(parts).unify_dictionaries()
        versions = rows["schema_version"]
        if versions.null_count:
            folder = self.path("results", table)
            raise ValueError(f"{folder} has rows that metaprune did not write: leave only its own files there")
        if len(rows) and pc.max(versions).as_py() > SCHEMA_VERSION:
            raise ValueError(f"run '{self.uri}' was written by a newer metaprune: update this one to read it")
        return rows.select(chosen)

    def _rows_of(self, table: str, columns: list[str], coded: Collection[str], name: str) -> pa.Table:
        """The rows of one file of a table, if it is whole."""
        path = self.path("results", table, name)
        try:
            with self.files.open_input_file(path) as file:
                content = file.read_buffer()
            return rows_of(content, SCHEMAS[table], columns, coded)
        except FileNotFoundError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"'{path}': {error}") from error

    def listed(self, table: str) -> set[str]:
        """Names of a table's files as they were together at one time.

        While a folder is listed, a file may go that is merged into another, which is not in the listing yet.
        """
        names, again = self.names("results", table), self.names("results", table)
        while any(name.startswith(MERGED) for name in again - names):
            names, again = again, self.names("results", table)
        return names

    def shards(self, table: str) -> tuple[list[str], list[str]]:
        """Names of a table's files, and of those that wait to be deleted because a merged one replaces them."""
        names = self.listed(table)
        replaced = names & set().union(*(self.replaced_by(table, name) for name in names))
        return sorted(names - replaced), sorted(replaced)

    def replaced_by(self, table: str, name: str) -> set[str]:
        """Names of the files whose rows are in this one."""
        if not name.startswith(MERGED):
            return set()
        path = self.path("results", table, name)
        metadata = pq.read_schema(path, filesystem=self.files).metadata or {}
        try:
            return set(json.loads(metadata.get(REPLACES, "[]")))
        except ValueError as error:
            raise OSError(f"'{path}' is damaged: it does not say which files it replaces") from error

    def failed(self) -> set[str]:
        """Keys of the stages with a row in `failures`."""
        return {name.removesuffix(".parquet") for name in self.names("results", "failures")}

    def done(self) -> set[str]:
        """Keys of the stages whose results are complete: in `timings`, and in every table that this names for them."""
        timed = self.read_table("timings", ["cell", "tables"])
        whole = np.ones(len(timed), dtype=bool)
        rows, named = pc.list_parent_indices(timed["tables"]).to_numpy(), pc.list_flatten(timed["tables"])
        for table in pc.unique(named).to_pylist():
            telling = rows[pc.equal(named, table).to_numpy()]  # the rows that name it
            there = self.read_table(table, ["cell"])["cell"] if table in SCHEMAS else pa.array([], pa.string())
            whole[telling] &= pc.is_in(timed["cell"].take(telling), there.unique()).to_numpy()
        return set(timed["cell"].filter(pa.array(whole)).to_pylist())
