"""Masks are compared as the papers do, and what is missing counts nothing."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.data import masks as run_lengths
from glamm_jax.metrics.iou import iou, mean_iou


def square(top: int, left: int, side: int) -> np.ndarray:
    mask = np.zeros((8, 10), bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_iou_is_shared_pixels_over_all_pixels() -> None:
    assert iou(square(0, 0, 4), square(0, 2, 4)) == 8 / 24
    assert iou(square(0, 0, 4), square(0, 0, 4)) == 1
    assert iou(square(0, 0, 2), square(4, 4, 2)) == 0


def test_run_lengths_and_counts_are_masks_too() -> None:
    truth = square(1, 1, 3)
    assert iou(run_lengths.encode(truth), 2 * truth.astype(np.uint8)) == 1


def test_a_missing_mask_counts_nothing_and_empty_ones_agree() -> None:
    assert iou(None, square(0, 0, 4)) == 0
    empty = np.zeros((8, 10), bool)
    assert iou(empty, empty) == 1
    assert iou(empty, square(0, 0, 1)) == 0


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 10\) and \(10, 8\)"):
        iou(square(0, 0, 4), square(0, 0, 4).T)


def test_the_mean_weighs_every_pair_alike() -> None:
    large, small = square(0, 0, 8), square(0, 0, 1)
    assert mean_iou([(large, large), (None, small)]) == 0.5
    with pytest.raises(ValueError, match="no masks"):
        mean_iou([])
