"""Segmentations of every kind become one mask; an unreadable part loses only itself."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from pycocotools import mask as coco

from glamm_jax.data import rle
from glamm_jax.data.sources.defects import (
    BAD_MASK,
    EMPTY_MASK,
    MASK_SIZE,
    MISSING_MASK,
    OVERLAPPING_PARTS,
    DefectLog,
)
from glamm_jax.data.sources.mask_annotations import read_mask
from tests.data.sources.small_datasets import block

SIZE = (12, 20)
SQUARE = [2.0, 2.0, 8.0, 2.0, 8.0, 8.0, 2.0, 8.0]


def read(parts, polygons_fit=True):
    """(mask, overlap, kinds of defects); None if there is no mask."""
    log = DefectLog("here")
    mask = read_mask(parts, *SIZE, log, "object", polygons_fit)
    kinds = Counter(defect.kind for defect in log.defects)
    if mask is None:
        return None, None, kinds
    return array(mask.mask), array(mask.overlap), kinds


def array(counts):
    return None if counts is None else rle.decode({"size": list(SIZE), "counts": counts})


def test_one_mask_in_run_lengths_of_any_kind_stays_what_it_is():
    runs = block(3, 2, 9, 10)
    expected = rle.decode(runs)
    for parts in (runs, [runs], rle.encode_counts(expected), [rle.encode_counts(expected)]):
        mask, overlap, kinds = read(parts)
        np.testing.assert_array_equal(mask, expected)
        assert overlap is None
        assert not kinds


def test_a_polygon_is_drawn_as_pycocotools_draws_it():
    expected = coco.frPyObjects([SQUARE], *SIZE)
    mask, _, _ = read([SQUARE])
    np.testing.assert_array_equal(array(expected[0]["counts"]), mask)


def test_quirk_22_parts_are_joined_and_what_two_of_them_cover_is_kept():
    mask, overlap, kinds = read([block(0, 0, 6, 6), block(4, 4, 10, 10)])
    assert mask.sum() == 36 + 36 - 4
    assert overlap.sum() == 4
    assert kinds == {OVERLAPPING_PARTS: 1}


def test_pixels_of_three_parts_are_named():
    log = DefectLog("here")
    mask = read_mask([block(0, 0, 6, 6)] * 3, *SIZE, log, "object")
    assert mask is not None and array(mask.overlap).sum() == 36
    assert "three or more" in log.defects[0].where


def test_an_empty_list_is_an_empty_mask():
    mask, overlap, kinds = read([])
    assert mask.sum() == 0
    assert overlap is None
    assert kinds == {EMPTY_MASK: 1}


def test_no_segmentation_is_no_mask():
    assert read(None) == (None, None, {MISSING_MASK: 1})


@pytest.mark.parametrize(
    "part",
    [
        [2, 2, 8, 8],
        [2, 2, 8, 8, 5],
        [2, 2, 8, 8, 5, 1, 7],
        [2, 2, 8, 8, 5, math.nan],
        [2, 2, 8, 8, 5, math.inf],
        [2, 2, 8, 8, 5, 1e12],
        [2, 2, 8, 8, 5, "one"],
        [2, 2, 8, 8, 5, True],
        [[2, 2], [8, 8], [5, 1]],
        [],
        "c1U1",
        7,
        {"size": [12, 20]},
        {"size": [12, 20], "counts": "c1U1;0000"},
        {"size": [12, 20], "counts": [1, 2, 3]},
        {"size": [12, 20], "counts": [-1, 241]},
        {"size": [12, 20], "counts": None},
        {"size": "12 x 20", "counts": [240]},
        {"size": [12, 20], "counts": "\udcff"},
    ],
    ids=str,
)
def test_a_part_that_cannot_be_read_is_named_and_the_others_stay(part):
    assert read([part]) == (None, None, {BAD_MASK: 1})
    mask, _, kinds = read([part, block(3, 2, 9, 10)])
    assert mask.sum() == 48
    assert kinds == {BAD_MASK: 1}


def test_run_lengths_of_another_size_are_named():
    other = block(3, 2, 9, 10, height=13)
    assert read([other]) == (None, None, {MASK_SIZE: 1})
    transposed = block(3, 2, 9, 10, height=20, width=12)
    assert read(transposed) == (None, None, {MASK_SIZE: 1})


def test_polygons_for_a_picture_of_another_size_are_not_used_but_run_lengths_are():
    mask, _, kinds = read([SQUARE, block(3, 2, 9, 10)], polygons_fit=False)
    assert mask.sum() == 48
    assert kinds == {BAD_MASK: 1}


def test_a_polygon_may_reach_beyond_the_picture():
    mask, _, kinds = read([[-5, -5, 30, -5, 30, 40, -5, 40]])
    assert mask.all()
    assert not kinds
