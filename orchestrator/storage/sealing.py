"""Parquet files that know whether they are as they were written.

Parquet has checksums of its pages, but none of its footer, where one flipped bit can make a column null without any
error. So a checksum of the whole file stands between its last page and its footer. Other readers of Parquet pass over
it, since a footer says where the pages are; whoever writes the rows anew leaves it out.
"""

import struct
import zlib

END = struct.Struct("<I4s")  # of every Parquet file: the length of its footer, and PAR1
SEAL = struct.Struct("<8sI")
MAGIC = b"METASEAL"


def sealed(content: bytes) -> bytes:
    """A Parquet file with its checksum in it."""
    footer = footer_start(content)
    pages, rest = content[:footer], content[footer:]
    return b"".join([pages, SEAL.pack(MAGIC, zlib.crc32(rest, zlib.crc32(pages))), rest])


def footer_start(content: bytes | memoryview) -> int:
    """Where the footer of a Parquet file begins, by what the end of the file says."""
    length, _ = END.unpack(content[-END.size :])
    return len(content) - END.size - int(length)


def is_damaged(content: bytes | memoryview) -> bool:
    """Whether a file has a checksum that does not fit. Files of version 0.1, and those that others wrote, have none."""
    start = footer_start(content) - SEAL.size if len(content) >= END.size else -1
    if start < 0:
        return False  # no Parquet at all, which its reader says
    magic, checksum = SEAL.unpack(content[start : start + SEAL.size])
    after = content[start + SEAL.size :]
    return bool(magic == MAGIC and zlib.crc32(after, zlib.crc32(content[:start])) != checksum)
