"""IoU of dense masks and of run lengths, and of empty and missing masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from glamm_jax.data import rle
from glamm_jax.metrics.iou import intersection_area, iou, pairwise_iou, read_runs, subtract


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
    assert iou(rle.encode(truth), 2 * truth.astype(np.uint8)) == 1


def test_a_missing_mask_counts_nothing_and_empty_ones_agree() -> None:
    assert iou(None, square(0, 0, 4)) == 0
    empty = np.zeros((8, 10), bool)
    assert iou(empty, empty) == 1
    assert iou(empty, square(0, 0, 1)) == 0


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 10\) and \(10, 8\)"):
        iou(square(0, 0, 4), square(0, 0, 4).T)


MASKS = arrays.arrays(bool, (4, 5, 7))


@given(MASKS, MASKS)
def test_runs_give_the_same_iou_as_pixels(some, others):
    table = pairwise_iou([read_runs(mask) for mask in some], [read_runs(mask) for mask in others])
    np.testing.assert_array_equal(table, [[iou(mask, other) for other in others] for mask in some])


@given(MASKS)
def test_runs_give_the_same_iou_as_pycocotools(masks):
    packed = [rle.encode(mask) for mask in masks]
    table = pairwise_iou([read_runs(runs) for runs in packed], [read_runs(packed[0])], both_empty=0)
    np.testing.assert_array_equal(table, coco.iou(packed, packed[:1], [0]))


@given(MASKS)
def test_pixels_are_subtracted_and_intersected(masks):
    mask, other = read_runs(masks[0]), read_runs(masks[1])
    difference = subtract(mask, other)
    assert difference.area == (masks[0] & ~masks[1]).sum()
    assert intersection_area(difference, other) == 0
    assert intersection_area(mask, other) == mask.area - difference.area


def test_two_empty_masks_and_two_sizes_have_the_requested_value():
    empty, small = read_runs(np.zeros((8, 10), bool)), read_runs(np.zeros((2, 2), bool))
    full = read_runs(square(0, 0, 4))
    assert pairwise_iou([empty], [empty, full]).tolist() == [[1, 0]]
    assert np.isnan(pairwise_iou([empty], [empty], both_empty=np.nan)).all()
    assert pairwise_iou([empty, full], [small], size_mismatch=-1.0).tolist() == [[-1], [-1]]
    assert pairwise_iou([], [full]).shape == (0, 1)
    for broken in (lambda: pairwise_iou([empty], [small]), lambda: subtract(full, small)):
        with pytest.raises(ValueError, match=r"\(8, 10\) and \(2, 2\)"):
            broken()
