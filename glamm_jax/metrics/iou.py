"""Intersection over union of masks: of one pair, and its mean over many.

A mask is an array [h, w], true where it is not 0, or COCO run lengths `{"size", "counts"}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import masks as run_lengths

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


def _pixels(mask: Mask) -> Bool[np.ndarray, "h w"]:
    array = mask if isinstance(mask, np.ndarray) else run_lengths.decode(dict(mask))
    return np.asarray(array) != 0
