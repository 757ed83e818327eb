"""Boxes are in the frame of the original image, and boxes outside of it are refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.data import boxes


def test_unit_boxes_are_shares_of_the_original_size():
    unit = boxes.to_unit(boxes.as_boxes([[25, 10, 200, 50]]), height=50, width=100)
    np.testing.assert_array_equal(unit, np.array([[0.25, 0.2, 2.0, 1.0]], np.float32))


def test_evaluated_boxes_are_rounded_twice():
    rounded = boxes.round_like_original(np.array([[0.7111, 0.0, 1.0, 1.0]], np.float32))
    assert rounded.dtype == ml_dtypes.bfloat16
    assert float(rounded[0, 0]) == 0.7109375


def test_rounding_passes_through_float16():
    # 1 + 2^-8 + 2^-12 rounds up in bfloat16; float16 drops the last bit, and the tie goes down.
    value = np.array([[1 + 2**-8 + 2**-12, 0, 2, 2]])
    assert float(boxes.round_like_original(value)[0, 0]) == 1.0
    assert float(value.astype(ml_dtypes.bfloat16)[0, 0]) == 1 + 2**-7


def test_every_wrong_box_is_listed_once():
    pixel_boxes = [[0, 0, 5, 5], [5, 5, 0, 0], [0, 0, 0, 5], [50, 50, 60, 60]]
    with pytest.raises(boxes.BoxError) as caught:
        boxes.check_boxes(pixel_boxes, height=20, width=20)
    for part in ("box 1", "inverted", "box 2", "no area", "box 3", "outside"):
        assert str(caught.value).count(part) == 1
    assert "box 0" not in str(caught.value)


@given(st.lists(st.tuples(*[st.floats(-50, 150)] * 4), max_size=6))
def test_a_checked_box_overlaps_the_picture_and_is_unchanged(pixel_boxes):
    try:
        checked = boxes.check_boxes(pixel_boxes, height=60, width=100)
    except boxes.BoxError:
        return
    assert checked.shape == (len(pixel_boxes), 4)
    assert boxes.overlaps_image(checked, 60, 100).all()
    np.testing.assert_array_equal(checked, np.reshape(pixel_boxes, (-1, 4)))


def test_a_full_box_fills_the_resized_picture():
    full = boxes.to_grounding_frame(boxes.as_boxes([0, 0, 131, 97]), 97, 131, 1024)
    np.testing.assert_allclose(full, [[0, 0, 1024, 758]])


@pytest.mark.parametrize(("limit_boxes", "num_boxes"), [(True, 10), (False, 13)])
def test_training_takes_ten_regions_in_shuffled_order(limit_boxes, num_boxes):
    order = np.random.default_rng(0).permutation(13)
    pixel_boxes = np.arange(13, dtype=np.float32)[:, None].repeat(4, axis=1)
    chosen, labels = boxes.select_regions(
        pixel_boxes, list(range(13)), order, limit_boxes=limit_boxes
    )
    assert chosen[:, 0].tolist() == order[:num_boxes].tolist()
    assert labels == order[:10].tolist()
