"""Encoding and decoding of masks as COCO run lengths: compressed strings and plain counts.

Runs go down the columns and start with background. Decoding validates its input first: annotation
files may be damaged, and C code would read outside of its arrays.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, no_type_check

import numpy as np
from jaxtyping import Bool, Int, UInt8
from numba import njit
from pycocotools import mask as coco

from glamm_jax.errors import GLaMMError

# A compressed count is a little-endian number of 5-bit groups; bit 5 is set if another follows.
FIRST_CHARACTER = 48
# Three times as large as the largest image that is decoded. Run lengths are compared with it before
# they are added, so that no sum can overflow.
MAX_PIXELS = 1 << 28
MAX_GROUPS = 6  # of a count of at most this size, with its sign


class MaskError(GLaMMError):
    """Run lengths are not a valid mask. Says why."""


def encode(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """Return {"size": [h, w], "counts": compressed string}, for JSON."""
    runs: Any = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")}


def encode_counts(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """Return {"size": [h, w], "counts": run lengths}; the first run is background, perhaps 0."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    counts = [0, *counts] if flat.size and flat[0] else counts
    return {"size": list(mask.shape), "counts": counts}


def compress(runs: Mapping[str, Any]) -> dict[str, Any]:
    """Return run lengths, compressed or not, with compressed counts.

    Raises:
        MaskError: the counts do not fill the mask.
    """
    height, width, counts = _validate(runs)
    return {"size": [height, width], "counts": _compress(counts).tobytes().decode("ascii")}


def decode(runs: Mapping[str, Any]) -> Bool[np.ndarray, "h w"]:
    """Return the mask of compressed or plain run lengths.

    Raises:
        MaskError: size or counts are missing or damaged, or the counts do not fill the mask.
    """
    height, width, counts = _validate(runs)
    mask = np.zeros((height, width), np.uint8)
    _paint(np.cumsum(counts), mask)
    return mask.view(bool)


def decode_into(runs: Mapping[str, Any], out: UInt8[np.ndarray, "h w"]) -> None:
    """Decode a mask into an array of zeros, which may be smaller than the mask.

    A pixel of a smaller array is the mask at the centre of that pixel. It is computed from the run
    lengths; the large mask is never decoded.

    Raises:
        MaskError: as in `decode`.
    """
    height, width, counts = _validate(runs)
    if not len(counts) or not height * width:
        return
    ends = np.cumsum(counts)
    if out.shape != (height, width):
        ends = _ends_at_centres(ends, (height, width), out.shape)
    _paint(ends, out)


def run_ends(runs: Mapping[str, Any]) -> tuple[tuple[int, int], Int[np.ndarray, "n"]]:
    """Return height and width, and the ends of the runs as indices down the columns.

    The mask is ends[0] to ends[1], ends[2] to ends[3], and so on.

    Raises:
        MaskError: as in `decode`.
    """
    height, width, counts = _validate(runs)
    return (height, width), np.cumsum(counts)


def area(runs: Mapping[str, Any]) -> int:
    """Return the number of pixels of a mask.

    Raises:
        MaskError: as in `decode`.
    """
    return int(_validate(runs)[2][1::2].sum())


def union(masks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the union of masks of one size, with compressed counts.

    Args:
        masks: at least one.

    Raises:
        MaskError: as in `decode`, or the masks have different sizes.
    """
    parts: list[Any] = [compress(mask) for mask in masks]
    if not parts or any(part["size"] != parts[0]["size"] for part in parts):
        raise MaskError("the union of no mask, or of masks of different sizes")
    encoded: Any = [{**part, "counts": part["counts"].encode()} for part in parts]
    merged: Any = coco.merge(encoded)
    return {"size": parts[0]["size"], "counts": merged["counts"].decode("ascii")}


def box(runs: Mapping[str, Any]) -> tuple[int, int, int, int] | None:
    """Return x0 y0 x1 y1 of a mask in pixels, the end exclusive; None if it is empty.

    Raises:
        MaskError: as in `decode`.
    """
    (height, _), ends = run_ends(runs)
    starts, stops = ends[: len(ends) // 2 * 2 : 2], ends[1::2]
    starts, stops = starts[stops > starts], stops[stops > starts]
    if not len(starts):
        return None
    left, top = np.divmod(starts, height)
    right, bottom = np.divmod(stops - 1, height)
    is_column = left == right  # a longer run has both the first and the last row
    y0 = int(np.where(is_column, top, 0).min())
    y1 = int(np.where(is_column, bottom, height - 1).max()) + 1
    return int(left[0]), y0, int(right[-1]) + 1, y1


def check(runs: Mapping[str, Any]) -> None:
    """Check run lengths without decoding them.

    Raises:
        MaskError: as in `decode`.
    """
    _validate(runs)


def size_within(size: tuple[int, int], limit: tuple[int, int]) -> tuple[int, int]:
    """Return a height and width scaled down with their proportions until they fit into `limit`."""
    (height, width), (max_height, max_width) = size, limit
    scale = min(max_height / height, max_width / width)
    return size if scale >= 1 else (max(1, int(height * scale)), max(1, int(width * scale)))


def sample_centres(size: int, new_size: int) -> Int[np.ndarray, "n"]:
    """Return the pixels of a line of `size` that are at the centres of `new_size` larger pixels."""
    return (np.arange(new_size) * 2 + 1) * size // (2 * new_size)


def _ends_at_centres(
    ends: Int[np.ndarray, "n"], size: tuple[int, int], new_size: tuple[int, ...]
) -> Int[np.ndarray, "n"]:
    """The ends of the runs as indices of sampled pixels only, down the columns as before."""
    column, row = np.divmod(ends, size[0])
    rows, columns = (sample_centres(old, new) for old, new in zip(size, new_size, strict=True))
    new_column = np.searchsorted(columns, column)
    is_sampled = np.append(columns, -1)[new_column] == column
    return new_column * new_size[0] + np.where(is_sampled, np.searchsorted(rows, row), 0)


@njit(cache=True, nogil=True)
@no_type_check
def _paint(ends, out):
    """Mark where each column changes, then accumulate the marks downwards, row by row."""
    height, width = out.shape
    if height == 0 or width == 0:
        return
    for i in range(0, len(ends) - 1, 2):
        if ends[i] == ends[i + 1]:
            continue
        if ends[i] < 0 or ends[i] > ends[i + 1] or ends[i + 1] > height * width:
            raise ValueError("a run outside of the mask")  # `_validate` has excluded it
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


def _validate(runs: Mapping[str, Any]) -> tuple[int, int, Int[np.ndarray, "n"]]:
    """Height, width, and counts that fill them exactly."""
    if not isinstance(runs, dict | Mapping) or "size" not in runs or "counts" not in runs:
        raise MaskError('run lengths must be {"size": [height, width], "counts": ...}')
    size = runs["size"]
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(map(_is_size, size))):
        raise MaskError(f"the size of a mask must be [height, width], not {reprlib.repr(size)}")
    height, width = int(size[0]), int(size[1])
    area = height * width
    if max(height, width, area) > MAX_PIXELS:
        raise MaskError(f"a mask of {height} x {width} pixels; at most {MAX_PIXELS} are read")
    counts = _counts(runs["counts"])
    total = _total(counts)
    if total < 0:
        raise MaskError("a run is negative or longer than the largest mask")
    if total != area:
        raise MaskError(f"the runs cover {total} pixels, the mask has {height} x {width}")
    return height, width, counts


def _is_size(value: Any) -> bool:
    is_integer = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_integer and bool(value >= 0)


def _counts(counts: Any) -> Int[np.ndarray, "n"]:
    """Run lengths of a compressed string, or of a list."""
    if isinstance(counts, str | bytes):
        raw = counts.encode("ascii", "replace") if isinstance(counts, str) else counts
        try:
            return _decompress(np.frombuffer(raw, np.uint8))
        except ValueError as error:
            raise MaskError(f"the compressed counts are damaged: {error}") from error
    if not isinstance(counts, list | tuple | np.ndarray):
        raise MaskError("counts must be a string or a list of whole numbers")
    try:
        array = np.asarray(counts)
    except (ValueError, OverflowError) as error:
        raise MaskError(f"counts are not a list of numbers: {error}") from error
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise MaskError("counts must be a string or a list of whole numbers")
    return array.astype(np.int64)  # what is larger becomes negative


@njit(cache=True, nogil=True)
@no_type_check
def _total(runs):
    """Return the sum of run lengths, -1 if one is negative or longer than the largest mask."""
    total = 0
    for run in runs:
        if run < 0 or run > MAX_PIXELS:
            return -1
        total += run
    return total


@njit(cache=True, nogil=True)
@no_type_check
def _decompress(characters):
    """Run lengths from their 5-bit groups. From the fourth on, a run is stored as a difference.

    The difference is to the run two places before.
    """
    runs, num_runs = np.empty(len(characters), np.int64), 0
    number = bits = 0
    for character in characters:
        code = np.int64(character) - FIRST_CHARACTER
        if code < 0 or code > 63:
            raise ValueError("invalid character")
        if bits == 40:
            raise ValueError("a number is too long")
        number |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            number -= 1 << bits
        runs[num_runs] = number + (runs[num_runs - 2] if num_runs > 2 else 0)
        if runs[num_runs] < 0 or runs[num_runs] > MAX_PIXELS:
            raise ValueError("a run is negative or longer than the largest mask")
        num_runs += 1
        number = bits = 0
    if bits:
        raise ValueError("the last number is incomplete")
    return runs[:num_runs]


@njit(cache=True, nogil=True)
@no_type_check
def _compress(runs):
    """Return the characters of run lengths; the inverse of `_decompress`."""
    characters, length = np.empty(len(runs) * MAX_GROUPS, np.uint8), 0
    for i in range(len(runs)):
        number = runs[i] - (runs[i - 2] if i > 2 else 0)
        while True:
            group, number = number & 31, number >> 5
            is_last = number == (-1 if group & 16 else 0)
            characters[length] = FIRST_CHARACTER + (group if is_last else group | 32)
            length += 1
            if is_last:
                break
    return characters[:length]
