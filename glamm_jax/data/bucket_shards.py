"""Reading single records of ArrayRecord files in a bucket, by ranges.

The reader of the package array_record opens files of this machine only. A file is a riegeli file:

    64 KiB blocks, each beginning with a header of 24 bytes
    chunk:  hash of the header, size of the data, hash of the data, kind and number of records,
            decoded size (8 bytes each), then the data
    data:   compression, size of the compressed sizes, sizes, values; both with their decoded size
    ...     the chunk before the last block lists the positions of all others; the last block says
            where that chunk is

Chunks may cross blocks. Every chunk is compared with its hashes when it is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pyarrow
from etils import epath

from glamm_jax.data.block_cache import BlockCache
from glamm_jax.data.highway_hash import riegeli_hash
from glamm_jax.storage import ObjectInfo, StorageError

BLOCK, BLOCK_HEADER, CHUNK_HEADER = 1 << 16, 24, 40
SIMPLE = ord("r")  # kind of a chunk
CODECS = {0: None, ord("b"): "brotli", ord("z"): "zstd", ord("s"): "snappy"}


class DamagedShardError(StorageError):
    """A file is no ArrayRecord file, or damaged. Says where."""


class _Footer(NamedTuple):
    """The chunks of a file.

    Attributes:
        starts: position of each, and the end of the last.
        ends: number of records up to and including each.
    """

    starts: np.ndarray
    ends: np.ndarray


@dataclass
class BucketShard:
    """An ArrayRecord file in a bucket. The list of its chunks is read when it is needed.

    Attributes:
        path: of the object.
        info: of the object; another generation of it is an error.
        cache: of its blocks.
    """

    path: epath.Path
    info: ObjectInfo
    cache: BlockCache
    _footer: _Footer | None = field(default=None, repr=False)

    def read(self, index: int) -> bytes:
        """Return a record.

        Raises:
            DamagedShardError: the file is damaged.
            StorageError: it cannot be read, or was replaced.
        """
        footer = self._footer = self._footer or self._read_footer()
        if not 0 <= index < footer.ends[-1]:
            raise DamagedShardError(f"has no record {index}, but {footer.ends[-1]} records")
        chunk = int(np.searchsorted(footer.ends, index, side="right"))
        records = self._chunk(int(footer.starts[chunk]), int(footer.starts[chunk + 1]))
        position = index - (int(footer.ends[chunk - 1]) if chunk else 0)
        if position >= len(records):
            raise DamagedShardError(f"chunk {chunk} has {len(records)} records")
        return records[position]

    def _read_footer(self) -> _Footer:
        size = self.info.size
        if size < BLOCK or size % BLOCK:
            raise DamagedShardError(f"{size} bytes are no ArrayRecord file")
        postscript = _fields(self._chunk(size - BLOCK, size)[0])
        start = postscript.get(1, -1)
        if not 0 <= start < size - BLOCK:
            raise DamagedShardError("its end does not say where the list of chunks is")
        _, *chunks = map(_fields, self._chunk(start, size - BLOCK))
        if not chunks:
            raise DamagedShardError("has no records")
        starts = np.array([chunk.get(1, 0) for chunk in chunks] + [start], np.int64)
        ends = np.cumsum([chunk.get(3, 0) for chunk in chunks])
        if np.any(np.diff(starts) <= 0):
            raise DamagedShardError("the positions of its chunks do not increase")
        return _Footer(starts, ends)

    def _chunk(self, start: int, end: int) -> list[bytes]:
        """Return the records of the chunk that begins at `start` and ends before `end`."""
        raw = self.cache.read(self.path, self.info, start, end)
        data = _without_block_headers(raw, start)
        header = np.frombuffer(data[:CHUNK_HEADER].ljust(CHUNK_HEADER, b"\0"), "<u8")
        header_hash, size, data_hash, kind, _ = header.tolist()
        if riegeli_hash(header[1:].tobytes()) != header_hash:
            raise DamagedShardError(f"the chunk at position {start} has a damaged header")
        data = data[CHUNK_HEADER : CHUNK_HEADER + size]
        if len(data) < size or riegeli_hash(data) != data_hash:
            raise DamagedShardError(f"the chunk at position {start} is damaged")
        if kind & 0xFF != SIMPLE:
            raise DamagedShardError(f"the chunk at position {start} is of kind {kind & 0xFF}")
        return _records(data, kind >> 8)


def _without_block_headers(raw: bytes, start: int) -> bytes:
    """Remove the headers of the blocks that begin in some bytes from position `start`."""
    first = -start % BLOCK
    if first >= len(raw):
        return raw
    parts = [raw[:first]]
    parts += [raw[at + BLOCK_HEADER : at + BLOCK] for at in range(first, len(raw), BLOCK)]
    return b"".join(parts)


def _records(data: bytes, count: int) -> list[bytes]:
    """Split the data of a chunk into its records."""
    codec, rest = CODECS[data[0]], data[1:]
    num_sizes, rest = _varint(rest)
    sizes = _varints(_decompressed(rest[:num_sizes], codec))
    values = _decompressed(rest[num_sizes:], codec)
    lengths = [next(sizes) for _ in range(count)]
    ends = np.cumsum([0, *lengths]).tolist()
    return [values[a:b] for a, b in pairwise(ends)]


def _decompressed(data: bytes, codec: str | None) -> bytes:
    if codec is None:
        return data
    size, data = _varint(data)
    if not size:
        return b""
    return pyarrow.decompress(data, size, codec=codec, asbytes=True)


def _varint(data: bytes) -> tuple[int, bytes]:
    """Return the number at the beginning of some bytes, and the others."""
    value, position = _number(data, 0)
    return value, data[position:]


def _number(data: Sequence[int], position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _varints(data: bytes) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = _number(data, position)
        yield value


def _fields(message: bytes) -> dict[int, int]:
    """Return the numbers of a protobuf message; others are left out."""
    values: dict[int, int] = {}
    position = 0
    while position < len(message):
        key, position = _number(message, position)
        if key & 7 == 0:
            values[key >> 3], position = _number(message, position)
        elif key & 7 == 2:
            length, position = _number(message, position)
            position += length
        else:
            position += {1: 8, 5: 4}[key & 7]
    return values
