"""Masks as COCO run lengths: compressed strings and plain counts, both ways.

Runs go down the columns and start with background. Decoding checks everything first: files of
annotations come from elsewhere, and C code should not be the first to find out that they lie.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Bool, Int, UInt8
from numba import njit
from pycocotools import mask as coco

from glamm_jax.errors import GLaMMError

# A compressed count is a little-endian number of 5-bit groups; bit 5 says that more follow.
FIRST_CHARACTER = 48
MAX_PIXELS = 1 << 31


class MaskError(GLaMMError):
    """Run lengths that describe no mask. Says what is wrong with them."""


def encode(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """{"size": [h, w], "counts": compressed string}, ready for JSON."""
    runs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": _text(runs)}


def encode_counts(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """{"size": [h, w], "counts": run lengths}. The first run is background and may be 0."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    counts = [0, *counts] if flat.size and flat[0] else counts
    return {"size": list(mask.shape), "counts": counts}


def compress(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Plain counts as a compressed string.

    Raises: MaskError when the counts do not fill the mask.
    """
    height, width, counts = _checked(runs)
    plain: Any = {"size": [height, width], "counts": counts.tolist()}
    packed = coco.frPyObjects(plain, height, width)
    return {"size": [height, width], "counts": _text(packed)}


def decode(runs: Mapping[str, Any]) -> Bool[np.ndarray, "h w"]:
    """The mask of compressed or plain run lengths.

    Raises: MaskError when size or counts are missing or broken, or do not fill the mask.
    """
    height, width, counts = _checked(runs)
    mask = np.zeros((height, width), np.uint8)
    _paint(np.cumsum(counts), mask)
    return mask.view(bool)


def decode_into(runs: Mapping[str, Any], out: UInt8[np.ndarray, "h w"]) -> None:
    """Put ones where the mask is into an array of zeros, which may be smaller than the mask.

    A smaller one holds what the mask is at the centres of its larger pixels. It is read from the
    run lengths: the large mask is never made.

    Raises: MaskError, as `decode`.
    """
    height, width, counts = _checked(runs)
    ends = np.cumsum(counts)
    if out.shape != (height, width):
        ends = _ends_at_centres(ends, (height, width), out.shape)
    _paint(ends, out)


def run_ends(runs: Mapping[str, Any]) -> tuple[tuple[int, int], Int[np.ndarray, "n"]]:
    """Height and width, and where the runs end, counted down the columns.

    The mask is ends[0] to ends[1], ends[2] to ends[3], and so on.

    Raises: MaskError, as `decode`.
    """
    height, width, counts = _checked(runs)
    return (height, width), np.cumsum(counts)


def size_within(size: tuple[int, int], room: tuple[int, int]) -> tuple[int, int]:
    """The largest height and width in the proportions of `size` that `room` holds."""
    (height, width), (rows, columns) = size, room
    scale = min(rows / height, columns / width)
    return size if scale >= 1 else (max(1, int(height * scale)), max(1, int(width * scale)))


def sample_centres(size: int, new_size: int) -> Int[np.ndarray, "n"]:
    """The pixels of a line at the centres of `new_size` larger ones."""
    return (np.arange(new_size) * 2 + 1) * size // (2 * new_size)


def _ends_at_centres(
    ends: Int[np.ndarray, "n"], size: tuple[int, int], new_size: tuple[int, ...]
) -> Int[np.ndarray, "n"]:
    """Where runs end, counted in the pixels that are read alone, down the columns as before."""
    column, row = np.divmod(ends, size[0])
    rows, columns = (sample_centres(old, new) for old, new in zip(size, new_size, strict=True))
    before = np.searchsorted(columns, column)
    read = np.append(columns, -1)[before] == column
    return before * new_size[0] + np.where(read, np.searchsorted(rows, row), 0)


@njit(cache=True, nogil=True)
@no_type_check
def _paint(ends, out):
    """Mark where each column changes, then carry the marks down, whole rows at a time."""
    height, width = out.shape
    for i in range(0, len(ends) - 1, 2):
        if ends[i] == ends[i + 1]:
            continue
        first, top = divmod(ends[i], height)
        last, bottom = divmod(ends[i + 1], height)
        out[top, first] ^= 1
        if bottom:
            out[bottom, last] ^= 1
            last += 1
        for x in range(first + 1, last):
            out[0, x] ^= 1
    for y in range(1, height):
        above, row = out[y - 1], out[y]
        for x in range(width):
            row[x] ^= above[x]


def _text(runs: Any) -> str:
    """The counts that pycocotools gives as bytes, for JSON."""
    return runs["counts"].decode("ascii")


def _checked(runs: Mapping[str, Any]) -> tuple[int, int, Int[np.ndarray, "n"]]:
    """Height, width and counts that fill them exactly."""
    if not isinstance(runs, Mapping) or not {"size", "counts"} <= set(runs):
        raise MaskError('run lengths are {"size": [height, width], "counts": ...}')
    size = runs["size"]
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_size, size))):
        raise MaskError(f"the size of a mask is [height, width], not {size!r}")
    counts = _counts(runs["counts"])
    area = size[0] * size[1]
    total = int(counts.sum())
    if total != area or (counts < 0).any() or area > MAX_PIXELS:
        raise MaskError(f"the runs cover {total} pixels, the mask has {size[0]} x {size[1]}")
    return int(size[0]), int(size[1]), counts


def _is_size(value: Any) -> bool:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return whole and bool(value >= 0)


def _counts(counts: Any) -> Int[np.ndarray, "n"]:
    if isinstance(counts, str | bytes):
        return _parse(counts)
    try:
        array = np.asarray(counts)
    except ValueError as error:
        raise MaskError(f"counts are not a list of numbers: {error}") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise MaskError("counts are a string or a list of whole numbers")
    if array.size and (array.max() > MAX_PIXELS or array.min() < 0):
        raise MaskError("a run is negative or longer than any mask")
    return array.astype(np.int64)


def _parse(text: str | bytes) -> Int[np.ndarray, "n"]:
    """Run lengths of a compressed string."""
    raw = text.encode("ascii", "replace") if isinstance(text, str) else text
    try:
        return _runs(np.frombuffer(raw, np.uint8))
    except ValueError as error:
        raise MaskError(f"the compressed counts are damaged: {error}") from error


@njit(cache=True, nogil=True)
@no_type_check
def _runs(characters):
    """Numbers of their 5-bit groups. From the fourth on, a run is its change by two back."""
    runs, found = np.empty(len(characters), np.int64), 0
    number = bits = 0
    for character in characters:
        code = np.int64(character) - FIRST_CHARACTER
        if code < 0 or code > 63:
            raise ValueError("a character means nothing")
        if bits == 40:
            raise ValueError("a number is too long")
        number |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << bits
        runs[found] = number + (runs[found - 2] if found > 2 else 0)
        if runs[found] < 0:
            raise ValueError("a run is negative")
        found += 1
        number = bits = 0
    if bits:
        raise ValueError("the last number has no end")
    return runs[:found]
