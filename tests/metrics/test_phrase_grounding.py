"""Phrase grounding: by order in compat, by the words in front of a mask in strict."""

from __future__ import annotations

import pytest

from glamm_jax.metrics.phrase_grounding import score_grounding
from glamm_jax.metrics.result import MODES
from tests.metrics.scenes import EMPTY, box, caption

TRUE = caption(("a dog", box(0, 4)), ("the red bus", box(6, 4)))


def both(said, figure, true=TRUE):
    return tuple(score_grounding({"1": said}, {"1": true}, mode).scores[figure] for mode in MODES)


def test_the_truth_is_perfect():
    assert both(TRUE, "mIoU") == both(TRUE, "recall") == (1.0, 1.0)


def test_words_lead_to_the_mask_in_strict_and_order_in_compat():
    said = caption(("the red bus", box(6, 4)), ("the dog", box(0, 3)))
    assert both(said, "mIoU") == (0.0, 0.875)
    assert both(said, "recall") == (0.0, 1.0)


def test_a_phrase_without_a_mask_costs_mean_iou_in_strict_alone():
    said = caption(("a dog", box(0, 4)), ("the red bus", None))
    assert both(said, "mIoU") == (1.0, 0.5)
    assert both(said, "recall") == (0.5, 0.5)


def test_two_empty_masks_agree_in_strict_alone():
    nothing = caption(("nothing", EMPTY))
    assert both(nothing, "mIoU", nothing) == both(nothing, "recall", nothing) == (0.0, 1.0)


def test_phrases_weigh_alike_whatever_their_image():
    said = {"1": TRUE, "2": caption(("a cat", EMPTY))}
    true = {"1": TRUE, "2": caption(("a cat", box(0, 1)))}
    for mode in MODES:
        assert score_grounding(said, true, mode).scores == pytest.approx(
            {"mIoU": 2 / 3, "recall": 2 / 3}
        )


@pytest.mark.parametrize("mode", MODES)
def test_irregular_input_is_noted_and_counts_nothing(mode):
    true = dict.fromkeys(("right", "missing", "size"), caption(("a", box(0, 4))))
    said = {"right": true["right"], "size": caption(("a", box(0, 4, (9, 10)))), "unknown": TRUE}
    result = score_grounding(said, {**true, "nothing": caption()}, mode)
    assert result.notes == {
        "unknown prediction": ("unknown",),
        "missing prediction": ("missing", "nothing"),
        "sizes disagree": ("size",),
        "no true mask": ("nothing",),
    }
    assert result.scores["recall"] == pytest.approx(1 / 3)


def test_an_empty_split_is_noted():
    compat, strict = (score_grounding({}, {}, mode) for mode in MODES)
    assert (compat.scores, strict.scores) == ({"mIoU": 0, "recall": 0}, {})
    assert compat.notes == strict.notes == {"empty split": ()}
