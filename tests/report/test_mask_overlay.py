"""Overlays: colours, outlines, phrases, and errors."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.report.mask_overlay import (
    PALETTE,
    ColouredText,
    MaskLayer,
    colour_of,
    contrast,
    draw_overlay,
    overlay,
    text_colour_on,
)


def square() -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[10:30, 10:30] = True
    return mask


def test_outside_the_masks_the_image_is_unchanged() -> None:
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    out = overlay(image, [square()])
    np.testing.assert_array_equal(out[~square()], image[~square()])
    assert (out[10, 10:30] == PALETTE[0]).all()  # the outline has the full colour


def test_colours_repeat() -> None:
    assert [colour_of(i) for i in range(100)][len(PALETTE)] == PALETTE[0]


@pytest.mark.usefixtures("unchecked")
def test_a_mask_of_another_size_is_named() -> None:
    with pytest.raises(ValueError, match="mask 1 is"):
        overlay(np.zeros((40, 60, 3), np.uint8), [square(), np.zeros((2, 2), bool)])


def grey() -> np.ndarray:
    return np.full((40, 60, 3), 200, np.uint8)


def has(sheet: np.ndarray, colour: tuple[int, int, int]) -> bool:
    return bool((sheet == colour).all(-1).any())


def test_the_text_is_below_the_image_with_the_phrase_in_its_masks_colour() -> None:
    passage = ColouredText("A box stands here.", [MaskLayer("A box", square(), 0, 5)])
    sheet = np.asarray(draw_overlay(grey(), [passage]))
    below = sheet[sheet.shape[1] * 40 // 60 :]
    assert (below == PALETTE[0]).all(-1).sum() > 200
    assert not has(np.asarray(draw_overlay(grey(), [ColouredText(passage.text)])), PALETTE[0])


def test_a_phrase_that_is_not_in_the_text_is_appended() -> None:
    sheet = np.asarray(draw_overlay(grey(), [ColouredText("", [MaskLayer("the box", square())])]))
    assert has(sheet[330:], PALETTE[0])


def test_colours_continue_from_passage_to_passage() -> None:
    passages = [ColouredText(text, [MaskLayer(text, square(), 0, 3)]) for text in ("one", "two")]
    sheet = np.asarray(draw_overlay(grey(), passages))
    middle = 320 + (len(sheet) - 320) // 2
    assert has(sheet[321:middle], PALETTE[0]) and not has(sheet[321:middle], PALETTE[1])
    assert has(sheet[middle:], PALETTE[1]) and not has(sheet[middle:], PALETTE[0])


def test_a_phrase_is_coloured_without_gaps_and_no_further() -> None:
    layer = MaskLayer("a b", square(), 1, 4)
    sheet = np.asarray(draw_overlay(grey(), [ColouredText("(a b) c", [layer])]))
    row = (sheet[321:] == PALETTE[0]).all(-1).any(0)
    coloured = np.flatnonzero(row)
    assert len(coloured) == coloured[-1] - coloured[0] + 1
    assert coloured[-1] < 60


def test_boxes_are_drawn_and_clipped_to_the_image() -> None:
    boxes = np.array([[5.0, 5.0, 20.0, 20.0], [40.0, 10.0, 900.0, 900.0]])
    plain = np.asarray(draw_overlay(grey(), []))
    with_boxes = np.asarray(draw_overlay(grey(), [], boxes))
    changed = (plain != with_boxes).any(-1)
    assert changed[5 * 8, 10 * 8] and changed[30 * 8, 479]
    assert not changed[10 * 8, 10 * 8]


def test_text_on_every_colour_has_the_contrast_that_accessibility_needs() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)
    assert min(contrast(text_colour_on(colour), colour) for colour in PALETTE) >= 4.5
    greys = [(x, x, x) for x in range(256)]
    assert min(contrast(text_colour_on(grey), grey) for grey in greys) >= 4.5
