"""Tensors of files in buckets, read by ranges of bytes, only those that are used.

The result has the tensor's shape, in memory that the system provides when a page is written: what
is not read takes none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import numpy as np
from etils import epath

from glamm_jax.storage import read_range

Index: TypeAlias = tuple[slice, ...]  # one for each leading axis, without steps
NUM_THREADS = 8
REQUEST_BYTES = 8 << 20  # of a request at most
GAP_BYTES = 1 << 20  # a smaller gap between two ranges is read as well: a request takes longer


def read_parts(
    path: epath.Path,
    offset: int,
    shape: tuple[int, ...],
    dtype: np.dtype,
    parts: Iterable[Index] | None,
) -> np.ndarray:
    """Read parts of a tensor.

    Args:
        path: of the file.
        offset: of the tensor's first byte.
        shape: of the tensor.
        dtype: of the tensor.
        parts: what is used of it; all else has arbitrary values. None: all.

    Raises:
        StorageError: the file cannot be read, or was replaced.
    """
    memory = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    ranges = byte_ranges(shape, dtype.itemsize, [()] if parts is None else parts)

    def fetch(span: tuple[int, int]) -> None:
        start, end = span
        data = read_range(path, offset + start, offset + end)
        memory[start:end] = np.frombuffer(data, np.uint8)

    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(fetch, _requests(ranges)))
    array = memory.view(dtype).reshape(shape)
    array.flags.writeable = False
    return array


def byte_ranges(
    shape: tuple[int, ...], itemsize: int, parts: Iterable[Index]
) -> list[tuple[int, int]]:
    """Return the ranges of bytes that hold parts of an array, merged across small gaps.

    Args:
        shape: of the array, in C order.
        itemsize: of an element.
        parts: slices of the leading axes.
    """
    runs = np.concatenate([_runs(shape, itemsize, part) for part in set(map(_as_bounds, parts))])
    runs = runs[np.argsort(runs[:, 0])]
    reach = np.maximum.accumulate(runs[:, 1])
    first = np.flatnonzero(np.r_[True, runs[1:, 0] - reach[:-1] > GAP_BYTES])
    last = np.r_[first[1:], len(runs)] - 1
    return [*zip(runs[first, 0].tolist(), reach[last].tolist(), strict=True)]


def _as_bounds(part: Index) -> tuple[tuple[int | None, int | None], ...]:
    """Return the bounds of slices; slices themselves cannot be compared."""
    return tuple((index.start, index.stop) for index in part)


def _runs(
    shape: tuple[int, ...], itemsize: int, part: tuple[tuple[int | None, int | None], ...]
) -> np.ndarray:
    """Return first byte and end of every contiguous run of a part."""
    bounds = [slice(*pair).indices(n)[:2] for pair, n in zip(part, shape, strict=False)]
    bounds += [(0, n) for n in shape[len(bounds) :]]
    strides = [itemsize * math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    # Behind the last axis that is not complete, everything is contiguous.
    inner = len(shape)
    while inner > 0 and bounds[inner - 1] == (0, shape[inner - 1]):
        inner -= 1
    if not inner:
        return np.array([[0, itemsize * math.prod(shape)]], np.int64)
    low, high = bounds[inner - 1]
    starts = np.array([low * strides[inner - 1]], np.int64)
    for (first, end), stride in zip(bounds[: inner - 1], strides, strict=False):
        starts = (np.arange(first, end)[:, None] * stride + starts[None, :]).reshape(-1)
    length = (high - low) * strides[inner - 1]
    return np.stack([starts, starts + length], axis=1)


def _requests(ranges: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for start, end in ranges:
        for position in range(start, end, REQUEST_BYTES):
            yield position, min(position + REQUEST_BYTES, end)
