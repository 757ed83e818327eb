"""The painter: colours, outlines, phrases, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.report.paint import PALETTE, Layer, colour_of, overlay, paint


def square() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:30] = True
    return mask


def test_outside_the_masks_the_picture_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    out = overlay(image, [square()])
    np.testing.assert_array_equal(out[~square()], image[~square()])
    assert (out[10, 10:30] == PALETTE[0]).all()  # the outline has the full colour


def test_colours_never_run_out() -> None:
    assert [colour_of(i) for i in range(100)][len(PALETTE)] == PALETTE[0]


@pytest.mark.usefixtures("unchecked")
def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match="mask 1 is"):
        overlay(np.zeros((40, 60, 3), np.uint8), [square(), np.zeros((2, 2), bool)])


def test_the_text_stands_below_the_picture_with_the_phrase_in_its_masks_colour() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    sheet = np.asarray(paint(image, "A box stands here.", [Layer("A box", square(), 0, 5)]))
    below = sheet[sheet.shape[1] * 40 // 60 :]
    assert (below == PALETTE[0]).all(-1).sum() > 200
    without = np.asarray(paint(image, "A box stands here.", []))
    assert not (without == PALETTE[0]).all(-1).any()


def test_a_phrase_that_is_not_in_the_text_stands_in_the_legend() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    sheet = np.asarray(paint(image, "", [Layer("the box", square())]))
    assert (sheet[330:] == PALETTE[0]).all(-1).any()
