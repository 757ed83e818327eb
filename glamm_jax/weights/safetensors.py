"""Safetensors files: headers checked before a byte is believed, tensors read and written in place.

A file is eight bytes (length of the header), the header (JSON: name -> dtype, shape, offsets) and
the tensors' bytes without gaps. Several files make a model, with an index that says where each
tensor lies. Tensors are read as maps of their files, so no more than one is ever resident; writing
knows all names, dtypes and shapes beforehand, so tensors may come in any order and in pieces.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from glamm_jax.errors import GLaMMError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# Tensors begin on such a boundary where their sizes allow it, so that memory maps are aligned.
ALIGNMENT = 64
SHARD_BYTES = 4 << 30
FLUSH_BYTES = 128 << 20
STRIP_BYTES = 32  # measured: 16 and 64 are slower

DTYPES: Mapping[str, np.dtype] = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


class TensorFileError(GLaMMError):
    """A weight file cannot be used. Names the file, the tensor, and what is wrong."""


class TensorInfo(NamedTuple):
    """What a header says of a tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def layer(self) -> TensorInfo:
        """One entry of the leading axis."""
        return self._replace(shape=self.shape[1:])

    def check(self, name: str, array: np.ndarray) -> None:
        """Refuse an array of another dtype or shape.

        Raises:
            ValueError: naming the tensor.
        """
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(
                f"{name}: {array.dtype} {array.shape}, announced were {self.dtype} {self.shape}"
            )


@dataclass(frozen=True)
class TensorLocation:
    """Where a tensor's bytes lie."""

    path: Path
    offset: int
    info: TensorInfo

    def layer(self, position: int) -> TensorLocation:
        """One entry of the leading axis."""
        info = self.info.layer()
        return TensorLocation(self.path, self.offset + position * info.nbytes, info)


def read_header(path: Path) -> dict[str, TensorLocation]:
    """Every tensor of a file, in the order of its bytes; nothing of them is read.

    Raises: TensorFileError when the file is absent, truncated or contradicts itself.
    """
    header, start, size = _header(path)
    places: dict[str, TensorLocation] = {}
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        info, begin, end = _entry(path, name, entry)
        if end - begin != info.nbytes:
            raise TensorFileError(
                f"{path}: tensor {name}: {end - begin} bytes are set apart for shape {info.shape} "
                f"of {info.dtype}, which needs {info.nbytes}"
            )
        spans.append((begin, end, name))
        places[name] = TensorLocation(path, start + begin, info)
    spans.sort()
    reached = 0
    for begin, end, name in spans:
        if begin != reached:
            how = "overlaps the tensor before it" if begin < reached else "leaves a gap before it"
            raise TensorFileError(f"{path}: tensor {name} {how} (offset {begin}, not {reached})")
        reached = end
    if start + reached != size:
        raise TensorFileError(
            f"{path}: the header speaks of {start + reached} bytes, the file has {size}; "
            "was the copy interrupted?"
        )
    return {name: places[name] for _, _, name in spans}


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """(the header, where the tensors begin, the size of the file)."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
                raise TensorFileError(
                    f"{path}: not a safetensors file, or a truncated one: a header of {length} "
                    f"bytes in a file of {size}"
                )
            header = json.loads(file.read(length))
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, TensorFileError):
            raise
        raise TensorFileError(f"{path}: the header is not JSON") from error
    if not isinstance(header, dict):
        raise TensorFileError(f"{path}: the header is no object")
    return header, 8 + length, size


def _entry(path: Path, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    """Dtype, shape and span of one entry of a header."""
    try:
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        dtype = DTYPES.get(entry["dtype"])
    except (TypeError, KeyError, ValueError) as error:
        raise TensorFileError(f"{path}: tensor {name}: the header's entry is damaged") from error
    if not whole or begin > end:
        raise TensorFileError(f"{path}: tensor {name}: shape {shape}, offsets {begin} to {end}")
    if dtype is None:
        raise TensorFileError(f"{path}: tensor {name}: dtype {entry['dtype']!r} is not known here")
    return TensorInfo(dtype, shape), begin, end


def read_folder(folder: Path) -> dict[str, TensorLocation]:
    """Every tensor of a folder: by its index if there is one, else its only file.

    Raises: TensorFileError when the index and the files do not agree, or a file cannot be used.
    """
    index = folder / INDEX
    if not index.is_file():
        return read_header(folder / SINGLE)
    weight_map = read_index(index)
    places: dict[str, TensorLocation] = {}
    for shard in sorted(set(weight_map.values())):
        if not (folder / shard).is_file():
            raise TensorFileError(f"{index} names {shard}, which is not in the folder")
        for name, place in read_header(folder / shard).items():
            if weight_map.get(name) != shard:
                where = weight_map.get(name, "nowhere")
                raise TensorFileError(f"{folder / shard}: holds {name}, by the index it is {where}")
            places[name] = place
    if absent := sorted(set(weight_map) - set(places)):
        raise TensorFileError(f"{index} names tensors that are in no file: {', '.join(absent)}")
    return places


def read_index(path: Path) -> dict[str, str]:
    """{tensor: file} of an index, safetensors' or torch's; a file lies beside its index.

    Raises: TensorFileError when it is no such index.
    """
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(shard)) for name, shard in weight_map.items()]
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise TensorFileError(f"{path}: not an index: it has no weight_map") from error
    for _, shard in pairs:
        if Path(shard).name != shard:
            raise TensorFileError(f"{path}: names {shard!r}, which is no file beside it")
    return dict(pairs)


def map_tensor(place: TensorLocation, *, ahead: bool = True) -> np.ndarray:
    """One tensor as a read-only map of its file.

    Args:
        ahead: bring all of it into memory at once, which is much cheaper than page by page.
            Without it, slices read no more than they need.
    """
    if not place.info.nbytes:
        return np.empty(place.info.shape, place.info.dtype)
    skip = place.offset % mmap.ALLOCATIONGRANULARITY
    flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if ahead else 0)
    with place.path.open("rb") as file:
        pages = mmap.mmap(
            *(file.fileno(), place.info.nbytes + skip, flags, mmap.PROT_READ),
            offset=place.offset - skip,
        )
    return np.frombuffer(pages, np.uint8)[skip:].view(place.info.dtype).reshape(place.info.shape)


class TensorWriter:
    """Writes the safetensors files of a folder, tensors in any order, each whole or in rows.

    with TensorWriter(folder).open(infos) as writer:
        writer.write("kernel", array)          # or writer.write("stack", layer, position=3)

    Files have their full size from the start, so a full disk is noticed first. Leaving the block
    without an error checks that every byte was written, and writes the index.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stem: str = "model",
        shard_bytes: int = SHARD_BYTES,
    ):
        self.folder, self._stem, self._shard_bytes = folder, stem, shard_bytes
        self._lock = threading.Lock()
        self._unflushed_bytes = 0
        self._unwritten_bytes: dict[str, int] = {}
        self._locations: dict[str, TensorLocation] = {}
        self._files: dict[Path, int] = {}

    @contextmanager
    def open(self, infos: Mapping[str, TensorInfo]) -> Iterator[TensorWriter]:
        """Create the files, let the block write every tensor, and finish them.

        Raises:
            ValueError: a tensor was not written completely.
        """
        self._unwritten_bytes = {name: info.nbytes for name, info in infos.items()}
        shards = list(_shards(infos, self._shard_bytes))
        count = len(shards)
        try:
            for i, names in enumerate(shards):
                part = f"-{i + 1:05}-of-{count:05}" if count > 1 else ""
                path = self.folder / f"{self._stem}{part}.safetensors"
                self._create(path, {name: infos[name] for name in names})
            yield self
            self._finish()
        finally:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def write(self, name: str, array: np.ndarray, position: int | None = None) -> None:
        """The whole tensor, or the `position`-th of its leading axis. Threads may write at once."""
        location = self._locations[name]
        if position is not None:
            location = location.layer(position)
        location.info.check(name, array)
        file, offset = self._files[location.path], location.offset
        for block in contiguous_blocks(array):
            offset += _write_all(file, block, offset)
        with self._lock:
            self._unwritten_bytes[name] -= array.nbytes
            self._unflushed_bytes += array.nbytes
            flush = self._unflushed_bytes > FLUSH_BYTES
            if flush:
                self._unflushed_bytes = 0
        if flush:  # the disk works while other threads compute
            os.fdatasync(file)

    def _create(self, path: Path, infos: Mapping[str, TensorInfo]) -> None:
        entries, end = {}, 0
        for name, info in infos.items():
            entries[name] = {
                "dtype": NAMES[info.dtype],
                "shape": list(info.shape),
                "data_offsets": [end, end + info.nbytes],
            }
            end += info.nbytes
        header = json.dumps({"__metadata__": {"format": "pt"}, **entries}).encode()
        header += b" " * (-(8 + len(header)) % ALIGNMENT)
        start = 8 + len(header)
        for name, info in infos.items():
            offset = start + entries[name]["data_offsets"][0]
            self._locations[name] = TensorLocation(path, offset, info)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self._files[path] = file
        os.write(file, len(header).to_bytes(8, "little") + header)
        if end:
            os.posix_fallocate(file, start, end)

    def _finish(self) -> None:
        if incomplete := [name for name, count in self._unwritten_bytes.items() if count]:
            raise ValueError(f"not written completely: {', '.join(sorted(incomplete))}")
        for file in self._files.values():
            os.fsync(file)
        if len(self._files) > 1:
            total = sum(location.info.nbytes for location in self._locations.values())
            weight_map = {name: location.path.name for name, location in self._locations.items()}
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            text = json.dumps(index, indent=1, sort_keys=True) + "\n"
            name = f"{self._stem}.safetensors.index.json"
            (self.folder / name).write_text(text, encoding="utf-8")


def _shards(infos: Mapping[str, TensorInfo], limit: int) -> Iterator[list[str]]:
    """Names, in their order, in groups of at most `limit` bytes; a larger tensor stands alone."""
    shard: list[str] = []
    size = 0
    for name, info in infos.items():
        if shard and size + info.nbytes > limit:
            yield shard
            shard, size = [], 0
        shard.append(name)
        size += info.nbytes
    yield shard


def contiguous_blocks(array: np.ndarray, limit: int = 4 << 20) -> Iterator[np.ndarray]:
    """An array's rows in C order, a block at a time: a transposed view never exists as a copy.

    A transposed matrix is copied in strips of its last axis, narrow enough to stay in the cache:
    five times faster than at once. The blocks share their memory.
    """
    if array.flags.c_contiguous:
        yield array
        return
    rows = max(1, limit * len(array) // max(1, array.nbytes))
    strip = max(1, STRIP_BYTES // array.dtype.itemsize)
    memory = np.empty((min(rows, len(array)), *array.shape[1:]), array.dtype)
    for start in range(0, len(array), rows):
        source = array[start : start + rows]
        block = memory[: len(source)]
        for first in range(0, source.shape[-1], strip):
            block[..., first : first + strip] = source[..., first : first + strip]
        yield block


def _write_all(file: int, block: np.ndarray, offset: int) -> int:
    buffer = block.reshape(-1).view(np.uint8).data
    done = 0
    while done < len(buffer):
        done += os.pwrite(file, buffer[done:], offset + done)
    return done
