"""Where what is read once is kept on a node, and the files of decoded images in it.

A file of images is an array in NumPy's format with a seal behind it: the checksum of the array and the time at which
the file was written. A file whose seal does not fit, one that was cut off, say, is made again. Of several processes
that want the same file at a time one makes it, and the others wait.
"""

import contextlib
import logging
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

CHECKED_BYTES = 2**30  # up to this size every opening compares the checksum; above, only where the time has changed
BLOCK = 2**24
SEAL = struct.Struct("<8sIQ")
MAGIC = b"METAIMGS"


def cache_folder() -> Path:
    """Where decoded images lie: `METAPRUNE_CACHE`, or `metaprune` in the user's cache folder; for a user without a home
    in that for temporary files."""
    if chosen := os.environ.get("METAPRUNE_CACHE"):
        return Path(chosen)
    if around := os.environ.get("XDG_CACHE_HOME"):
        return Path(around) / "metaprune"
    try:
        return Path.home() / ".cache" / "metaprune"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / f"metaprune-{os.getuid()}"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when it is whole: other processes see the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(number, "w+b") as file:
            yield file
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


def memory_mapped(name: str, make: Callable[[], Tensor]) -> Tensor:
    """The tensor that `make` returns, kept in a file that all processes of a node map into memory.

    Args:
        name: of the file, which has to say everything that the tensor depends on.
        make: called where there is no such file, or where it is damaged.

    Returns:
        The tensor in the file, or in memory alone where the file cannot be written.
    """
    path = cache_folder() / "images" / f"{name}.npy"
    if not intact(path):
        with alone_with(path):
            if not intact(path):  # another process may have made it meanwhile
                made = make()
                try:
                    with replacing(path) as file:
                        np.save(file, made.numpy())
                        seal(file)
                except OSError as error:
                    logging.getLogger(__name__).warning("decoded images stay in this process alone: %s", error)
                    return made
    return torch.from_numpy(np.load(path, mmap_mode="c"))


@contextlib.contextmanager
def alone_with(path: Path) -> Iterator[None]:
    """Keep all other processes out of such blocks for the same file; they wait, and go on where this one dies.

    Where the folder cannot be written to, or its file system has no locks, several may be inside: files still appear
    whole, and only work is done twice.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with contextlib.suppress(OSError, NotImplementedError):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def seal(file: IO[bytes]) -> None:
    """Write the checksum of all that was written, and the present time, behind it."""
    checksum = _checksum(file, file.tell())
    seconds = int(time.time())  # whole seconds, which every file system keeps
    file.write(SEAL.pack(MAGIC, checksum, seconds))
    file.flush()
    os.utime(file.fileno(), (seconds, seconds))


def intact(path: Path) -> bool:
    """Whether a file is there and is what `memory_mapped` wrote."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END) - SEAL.size
            if length < 0:
                return False
            file.seek(length)
            magic, checksum, seconds = SEAL.unpack(file.read())
            if magic != MAGIC:
                return False
            unchanged = os.fstat(file.fileno()).st_mtime == seconds
            return (unchanged and length > CHECKED_BYTES) or _checksum(file, length) == checksum
    except OSError:
        return False


def _checksum(file: IO[bytes], length: int) -> int:
    """CRC-32 of the first `length` bytes; leaves the file at their end."""
    file.seek(0)
    checksum = 0
    while length > 0 and (block := file.read(min(BLOCK, length))):
        checksum = zlib.crc32(block, checksum)
        length -= len(block)
    return checksum
