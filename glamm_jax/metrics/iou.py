"""Intersection over union of masks: of one pair, of all pairs, and its mean over many.

A mask is an array [h, w], true where it is not 0, or COCO run lengths `{"size", "counts"}`. Many
pairs are compared by their run lengths: no pixel is painted, and every mask is read once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

from glamm_jax.data import rle

Mask = np.ndarray | Mapping[str, Any]


def iou(predicted: Mask | None, truth: Mask) -> float:
    """Shared pixels over all pixels of both masks, in 0 to 1.

    None, a mask that was not given, counts 0. Two empty masks agree: 1.

    Raises: ValueError when the masks differ in size.
    """
    if predicted is None:
        return 0.0
    one, other = _pixels(predicted), _pixels(truth)
    if one.shape != other.shape:
        raise ValueError(f"masks of different sizes: {one.shape} and {other.shape}")
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 1.0


def mean_iou(pairs: Iterable[tuple[Mask | None, Mask]]) -> float:
    """Mean over (predicted, truth) of their IoU: every pair counts the same, whatever its size.

    Raises: ValueError when there is no pair.
    """
    each = [iou(predicted, truth) for predicted, truth in pairs]
    if not each:
        raise ValueError("no masks: there is no mean of nothing")
    return float(np.mean(each))


class MaskRuns(NamedTuple):
    """A mask as the ends of its runs, down the columns.

    It holds the pixels from ends[0] to ends[1], from ends[2] to ends[3], and so on.
    """

    size: tuple[int, int]
    ends: Int[np.ndarray, "n"]
    area: int


def read_runs(mask: Mask) -> MaskRuns:
    """The runs of a mask, checked.

    Raises: MaskError when run lengths are broken.
    """
    runs = rle.encode(mask != 0) if isinstance(mask, np.ndarray) else mask
    size, ends = rle.run_ends(runs)
    area = int((ends[1::2] - ends[: ends.size // 2 * 2 : 2]).sum())
    return MaskRuns(size, ends, area)


def shared_pixels(one: MaskRuns, other: MaskRuns) -> int:
    """How many pixels both masks hold.

    Raises: ValueError when they differ in size.
    """
    if one.size != other.size:
        raise ValueError(f"masks of different sizes: {one.size} and {other.size}")
    return int(_shared(one.ends, other.ends))


def without(mask: MaskRuns, hidden: MaskRuns) -> MaskRuns:
    """The pixels of a mask that the other does not hide.

    Raises: ValueError when they differ in size.
    """
    if mask.size != hidden.size:
        raise ValueError(f"masks of different sizes: {mask.size} and {hidden.size}")
    return read_runs(_painted(mask) & ~_painted(hidden))


def pairwise_iou(
    some: Sequence[MaskRuns],
    others: Sequence[MaskRuns],
    *,
    both_empty: float = 1.0,
    unequal: float | None = None,
) -> Float[np.ndarray, "some others"]:
    """IoU of each of some masks with each of the others.

    Args:
        both_empty: that of two empty masks.
        unequal: that of two masks of different sizes; None: they are an error.

    Raises: ValueError when masks differ in size and `unequal` does not say what that is worth.
    """
    table = np.zeros((len(some), len(others)))
    for i, one in enumerate(some):
        for j, other in enumerate(others):
            if one.size != other.size and unequal is not None:
                table[i, j] = unequal
            elif one.area == 0 and other.area == 0 and one.size == other.size:
                table[i, j] = both_empty
            else:
                shared = shared_pixels(one, other)
                table[i, j] = shared / (one.area + other.area - shared)
    return table


def _painted(mask: MaskRuns) -> Bool[np.ndarray, "h w"]:
    counts = np.diff(mask.ends, prepend=0)
    return rle.decode({"size": list(mask.size), "counts": counts})


@njit(cache=True, nogil=True)
@no_type_check
def _shared(one, other):
    """Walk along both lists of ends at once."""
    total, i, j = 0, 0, 0
    while i + 1 < len(one) and j + 1 < len(other):
        first, last = max(one[i], other[j]), min(one[i + 1], other[j + 1])
        total += max(0, last - first)
        if one[i + 1] < other[j + 1]:
            i += 2
        else:
            j += 2
    return total


def _pixels(mask: Mask) -> Bool[np.ndarray, "h w"]:
    array = mask if isinstance(mask, np.ndarray) else rle.decode(dict(mask))
    return np.asarray(array) != 0
