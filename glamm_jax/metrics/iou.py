"""Intersection over union (IoU) of masks: of one pair, or of all pairs of two lists.

A mask is an array [h, w], true where it is not 0, or COCO run lengths `{"size", "counts"}`. All
pairs are compared by their run lengths: masks are not decoded, and each is read once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float, Int
from numba import njit

from glamm_jax.data import rle

Mask = np.ndarray | Mapping[str, Any]


def iou(predicted: Mask | None, reference: Mask) -> float:
    """Return the IoU of two masks; 1 if both are empty, 0 if the predicted one is None.

    Raises:
        ValueError: the masks have different sizes.
    """
    if predicted is None:
        return 0.0
    pixels, reference_pixels = _pixels(predicted), _pixels(reference)
    if pixels.shape != reference_pixels.shape:
        raise ValueError(f"masks of different sizes: {pixels.shape} and {reference_pixels.shape}")
    union = int((pixels | reference_pixels).sum())
    return int((pixels & reference_pixels).sum()) / union if union else 1.0


class MaskRuns(NamedTuple):
    """A mask as the ends of its runs, in column-major order.

    Attributes:
        size: height and width.
        ends: the mask consists of the pixels from ends[0] to ends[1], from ends[2] to ends[3], and
            so on.
        area: number of pixels.
    """

    size: tuple[int, int]
    ends: Int[np.ndarray, "n"]
    area: int


def read_runs(mask: Mask) -> MaskRuns:
    """Return the checked runs of a mask.

    Raises:
        MaskError: the run lengths are damaged.
    """
    runs = rle.encode(mask != 0) if isinstance(mask, np.ndarray) else mask
    size, ends = rle.run_ends(runs)
    area = int((ends[1::2] - ends[: ends.size // 2 * 2 : 2]).sum())
    return MaskRuns(size, ends, area)


def intersection_area(mask: MaskRuns, other: MaskRuns) -> int:
    """Return the number of pixels that are in both masks.

    Raises:
        ValueError: the masks have different sizes.
    """
    if mask.size != other.size:
        raise ValueError(f"masks of different sizes: {mask.size} and {other.size}")
    return int(_intersection(mask.ends, other.ends))


def subtract(mask: MaskRuns, other: MaskRuns) -> MaskRuns:
    """Return the pixels of a mask that are not in another one.

    Raises:
        ValueError: the masks have different sizes.
    """
    if mask.size != other.size:
        raise ValueError(f"masks of different sizes: {mask.size} and {other.size}")
    return read_runs(_decode(mask) & ~_decode(other))


def pairwise_iou(
    masks: Sequence[MaskRuns],
    others: Sequence[MaskRuns],
    *,
    both_empty: float = 1.0,
    size_mismatch: float | None = None,
) -> Float[np.ndarray, "masks others"]:
    """Return the IoU of all pairs.

    Args:
        masks: first mask of a pair.
        others: second mask of a pair.
        both_empty: value for two empty masks.
        size_mismatch: value for two masks of different sizes; None: they are an error.

    Raises:
        ValueError: masks have different sizes and `size_mismatch` is None.
    """
    table = np.zeros((len(masks), len(others)))
    for i, mask in enumerate(masks):
        for j, other in enumerate(others):
            if mask.size != other.size and size_mismatch is not None:
                table[i, j] = size_mismatch
            elif mask.area == 0 and other.area == 0 and mask.size == other.size:
                table[i, j] = both_empty
            else:
                intersection = intersection_area(mask, other)
                table[i, j] = intersection / (mask.area + other.area - intersection)
    return table


def _decode(mask: MaskRuns) -> Bool[np.ndarray, "h w"]:
    counts = np.diff(mask.ends, prepend=0)
    return rle.decode({"size": list(mask.size), "counts": counts})


@njit(cache=True, nogil=True)
@no_type_check
def _intersection(ends, others):
    """Traverse both lists of ends at once."""
    total, i, j = 0, 0, 0
    while i + 1 < len(ends) and j + 1 < len(others):
        first, last = max(ends[i], others[j]), min(ends[i + 1], others[j + 1])
        total += max(0, last - first)
        if ends[i + 1] < others[j + 1]:
            i += 2
        else:
            j += 2
    return total


def _pixels(mask: Mask) -> Bool[np.ndarray, "h w"]:
    array = mask if isinstance(mask, np.ndarray) else rle.decode(dict(mask))
    return np.asarray(array) != 0
