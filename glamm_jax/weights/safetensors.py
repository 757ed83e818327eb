"""Safetensors files: validated headers, memory-mapped reading, writing in any order.

A file is eight bytes (length of the header), the header (JSON: name -> dtype, shape, offsets) and
the tensors' bytes without gaps. A model is one file, or several with an index that maps each tensor
to its file. Headers are checked before any tensor is read. Tensors are read as memory maps, so no
more than one is resident at a time; of a file in a bucket, the ranges are read that are used. The
writer gets all names, dtypes and shapes first, so that tensors may be written in any order and in
parts.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from glamm_jax.errors import GLaMMError
from glamm_jax.files import FileNameError, safe_name
from glamm_jax.json_files import JSONError, parse_json, read_object, show
from glamm_jax.storage import AnyPath, read_range, size_of
from glamm_jax.weights.bucket_tensors import Index, read_parts

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
MAX_AXES = 32
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ALL_FILES = "model*.safetensors"  # pattern of the single file and of shards
# The tensors' bytes begin at a multiple of this, so that memory maps are aligned.
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
    """A weight file cannot be used. The message names the file, the tensor and the reason."""


class TensorInfo(NamedTuple):
    """Dtype and shape of a tensor."""

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def layer(self) -> TensorInfo:
        """Return dtype and shape of one entry of the leading axis."""
        return self._replace(shape=self.shape[1:])

    def check(self, name: str, array: np.ndarray) -> None:
        """Check that an array has this dtype and shape.

        Raises:
            ValueError: it does not; the message gives the tensor's name.
        """
        if array.shape != self.shape or array.dtype != self.dtype:
            raise ValueError(
                f"{name}: {array.dtype} {array.shape}, expected {self.dtype} {self.shape}"
            )


@dataclass(frozen=True)
class TensorLocation:
    """Where a tensor's bytes are: file, offset in bytes from its start, dtype and shape."""

    path: AnyPath
    offset: int
    info: TensorInfo

    def layer(self, position: int) -> TensorLocation:
        """Return the location of one entry of the leading axis."""
        info = self.info.layer()
        return TensorLocation(self.path, self.offset + position * info.nbytes, info)


def read_header(path: AnyPath) -> dict[str, TensorLocation]:
    """Read the header of a file: the location of every tensor, in the order of their bytes.

    Raises:
        TensorFileError: the file is absent, truncated or inconsistent.
    """
    try:
        if path.exists() and not path.is_file():
            raise TensorFileError(f"{path}: not a file")
        file_size = size_of(path)
        length = int.from_bytes(_read(path, 0, min(8, file_size)), "little")
        if file_size < 8 or length > min(file_size - 8, MAX_HEADER_BYTES):
            raise TensorFileError(
                f"{path}: not a safetensors file, or truncated: a header of {length} bytes in "
                f"a file of {file_size} bytes"
            )
        header = parse_json(_read(path, 8, 8 + length), f"{path}: the header")
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror}") from error
    except JSONError as error:
        raise TensorFileError(f"{path}: the header is not valid JSON") from error
    if not isinstance(header, dict):
        raise TensorFileError(f"{path}: the header is not a JSON object")
    start = 8 + length
    locations: dict[str, TensorLocation] = {}
    spans = []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        info, begin, end = _parse_entry(path, name, entry)
        if end - begin != info.nbytes:
            raise TensorFileError(
                f"{path}: tensor {name}: shape {info.shape} of {info.dtype} needs {info.nbytes} "
                f"bytes, but the header reserves {end - begin}"
            )
        spans.append((begin, end, name))
        locations[name] = TensorLocation(path, start + begin, info)
    spans.sort()
    previous_end = 0
    for begin, end, name in spans:
        if begin != previous_end:
            problem = "overlaps" if begin < previous_end else "leaves a gap after"
            raise TensorFileError(
                f"{path}: tensor {name} {problem} the previous tensor (offset {begin}, expected "
                f"{previous_end})"
            )
        previous_end = end
    if start + previous_end != file_size:
        raise TensorFileError(
            f"{path}: the header describes a file of {start + previous_end} bytes, but it has "
            f"{file_size}; copy or download it again"
        )
    return {name: locations[name] for _, _, name in spans}


def _read(path: AnyPath, start: int, end: int) -> bytes:
    """Read a range of a file."""
    if not isinstance(path, Path):
        return read_range(path, start, end)
    with path.open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def _parse_entry(path: AnyPath, name: str, entry: Any) -> tuple[TensorInfo, int, int]:
    """Return (dtype and shape, first byte, end) of one entry of a header."""
    try:
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        are_counts = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        dtype = DTYPES.get(entry["dtype"])
    except (TypeError, KeyError, ValueError) as error:
        raise TensorFileError(
            f"{path}: tensor {name}: the header's entry lacks a valid dtype, shape or data_offsets"
        ) from error
    # numpy's limits; also for a tensor without elements.
    if (
        not are_counts
        or len(shape) > MAX_AXES
        or math.prod(n or 1 for n in shape) >= 1 << 59
        or begin > end
    ):
        raise TensorFileError(
            f"{path}: tensor {name}: invalid shape {show(shape)} or data_offsets {show(begin)} to "
            f"{show(end)}"
        )
    if dtype is None:
        raise TensorFileError(
            f"{path}: tensor {name}: dtype {show(entry['dtype'])} is not supported"
        )
    return TensorInfo(dtype, shape), begin, end


def read_folder(folder: AnyPath) -> dict[str, TensorLocation]:
    """Read the headers of a folder's files: model.safetensors, or else those of the index.

    The precedence is that of transformers.

    Raises:
        TensorFileError: the index and the files disagree, or a file cannot be used.
    """
    index = folder / INDEX
    if (folder / SINGLE).is_file() or not index.is_file():
        return read_header(folder / SINGLE)
    weight_map = read_index(index)
    locations: dict[str, TensorLocation] = {}
    for file_name in sorted(set(weight_map.values())):
        path = folder / file_name
        if not path.is_file():
            raise TensorFileError(f"{index}: lists {file_name}, which is not in the folder")
        for name, location in read_header(path).items():
            if weight_map.get(name) != file_name:
                raise TensorFileError(
                    f"{path}: contains {name}, which the index assigns to "
                    f"{weight_map.get(name, 'no file')}"
                )
            locations[name] = location
    if missing := sorted(set(weight_map) - set(locations)):
        raise TensorFileError(f"{index}: lists tensors that no file contains: {', '.join(missing)}")
    return locations


def read_index(path: AnyPath) -> dict[str, str]:
    """Read an index of safetensors or of torch: {tensor: name of its file beside the index}.

    Raises:
        TensorFileError: the file cannot be read, or is not an index.
    """
    try:
        weight_map = read_object(path).object("weight_map")
        file_names = {name: weight_map.text(name) for name in weight_map}
    except JSONError as error:
        raise TensorFileError(f"{error}; it is not an index of weights") from error
    for file_name in set(file_names.values()):
        try:
            safe_name(file_name)
        except FileNameError as error:
            raise TensorFileError(
                f"{path}: {show(file_name)} is not the name of a file beside it"
            ) from error
    return file_names


def map_tensor(location: TensorLocation, parts: Iterable[Index] | None = None) -> np.ndarray:
    """Return a tensor as a read-only memory map of its file, or parts of one in a bucket.

    Args:
        location: file, offset, dtype and shape.
        parts: what is used of it, as indexes; all else has arbitrary values. None: the complete
            tensor, which is brought into memory at once: much cheaper than page by page.
    """
    info = location.info
    if not info.nbytes:
        return np.empty(info.shape, info.dtype)
    if not isinstance(location.path, Path):
        return read_parts(location.path, location.offset, info.shape, info.dtype, parts)
    prefetch = parts is None
    skip = location.offset % mmap.ALLOCATIONGRANULARITY
    flags = mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if prefetch else 0)
    with location.path.open("rb") as file:
        pages = mmap.mmap(
            *(file.fileno(), info.nbytes + skip, flags, mmap.PROT_READ),
            offset=location.offset - skip,
        )
    return np.frombuffer(pages, np.uint8)[skip:].view(info.dtype).reshape(info.shape)


class TensorWriter:
    """Writer of the safetensors files of a folder; a `TensorSink`.

        with TensorWriter(folder).open(infos) as writer:
            writer.write("kernel", array)
            writer.write("stack", layer, position=3)

    The files are allocated at full size when they are created, so that a full disk is reported
    before anything is computed. Leaving the block without an error checks that every byte was
    written, and writes the index.

    Attributes:
        folder: where the files are written.
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
        """Create the files; within the context, `write` writes the tensors.

        Args:
            infos: dtype and shape of every tensor, in the order of the files' bytes.

        Raises:
            ValueError: on leaving the context, a tensor is not written completely.
            OSError: a file exists, or the disk is full.
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
            if incomplete := [name for name, left in self._unwritten_bytes.items() if left]:
                raise ValueError(f"not written completely: {', '.join(sorted(incomplete))}")
            for file in self._files.values():
                os.fsync(file)
            if len(self._files) > 1:
                self._write_index()
        finally:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def write(self, name: str, array: np.ndarray, position: int | None = None) -> None:
        """Write a tensor, or the `position`-th entry of its leading axis. Thread-safe."""
        location = self._locations[name]
        if position is not None:
            location = location.layer(position)
        location.info.check(name, array)
        file, offset = self._files[Path(location.path)], location.offset
        for block in contiguous_blocks(array):
            offset += _write_all(file, block, offset)
        with self._lock:
            self._unwritten_bytes[name] -= array.nbytes
            self._unflushed_bytes += array.nbytes
            flush = self._unflushed_bytes > FLUSH_BYTES
            if flush:
                self._unflushed_bytes = 0
        if flush:  # so that the disk is busy while other threads compute
            os.fdatasync(file)

    def _create(self, path: Path, infos: Mapping[str, TensorInfo]) -> None:
        """Write the header of a file and allocate the tensors' bytes."""
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

    def _write_index(self) -> None:
        total = sum(location.info.nbytes for location in self._locations.values())
        weight_map = {name: location.path.name for name, location in self._locations.items()}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        text = json.dumps(index, indent=1, sort_keys=True) + "\n"
        path = self.folder / f"{self._stem}.safetensors.index.json"
        path.write_text(text, encoding="utf-8")


def _shards(infos: Mapping[str, TensorInfo], limit: int) -> Iterator[list[str]]:
    """Yield groups of consecutive names of at most `limit` bytes; larger tensors are alone."""
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
    """Yield an array's rows in C order as blocks, so that no complete copy is made.

    Each block is copied in strips of the last axis that are narrow enough for the cache, which is
    five times faster than copying it at once. All blocks share their memory: use each before
    asking for the next.

    Args:
        array: of any strides.
        limit: bytes of a block, unless one row is larger.
    """
    if array.flags.c_contiguous:
        yield array
        return
    num_rows = max(1, limit * len(array) // max(1, array.nbytes))
    width = max(1, STRIP_BYTES // array.dtype.itemsize)
    buffer = np.empty((min(num_rows, len(array)), *array.shape[1:]), array.dtype)
    for start in range(0, len(array), num_rows):
        rows = array[start : start + num_rows]
        block = buffer[: len(rows)]
        for column in range(0, rows.shape[-1], width):
            strip = np.s_[..., column : column + width]
            block[strip] = rows[strip]
        yield block


def _write_all(file: int, block: np.ndarray, offset: int) -> int:
    """Write a block at an offset and return its size in bytes."""
    data = block.reshape(-1).view(np.uint8).data
    written = 0
    while written < len(data):
        written += os.pwrite(file, data[written:], offset + written)
    return written
