"""Phrase grounding: by order in compat, by the words of a mask's phrase in strict."""

from __future__ import annotations

import pytest

from glamm_jax.metrics.phrase_grounding import score_grounding
from glamm_jax.metrics.result import MODES
from tests.metrics.scenes import EMPTY, box, caption

REFERENCE = caption(("a dog", box(0, 4)), ("the red bus", box(6, 4)))


def both(predicted, metric, reference=REFERENCE):
    return tuple(
        score_grounding({"1": predicted}, {"1": reference}, mode).scores[metric] for mode in MODES
    )


def test_the_reference_scores_perfectly():
    assert both(REFERENCE, "mIoU") == both(REFERENCE, "recall") == (1.0, 1.0)


def test_words_lead_to_the_mask_in_strict_and_order_in_compat():
    predicted = caption(("the red bus", box(6, 4)), ("the dog", box(0, 3)))
    assert both(predicted, "mIoU") == (0.0, 0.875)
    assert both(predicted, "recall") == (0.0, 1.0)


def test_a_phrase_without_a_mask_costs_mean_iou_in_strict_alone():
    predicted = caption(("a dog", box(0, 4)), ("the red bus", None))
    assert both(predicted, "mIoU") == (1.0, 0.5)
    assert both(predicted, "recall") == (0.5, 0.5)


def test_two_empty_masks_agree_in_strict_alone():
    nothing = caption(("nothing", EMPTY))
    assert both(nothing, "mIoU", nothing) == both(nothing, "recall", nothing) == (0.0, 1.0)


def test_phrases_weigh_alike_whatever_their_image():
    predicted = {"1": REFERENCE, "2": caption(("a cat", EMPTY))}
    reference = {"1": REFERENCE, "2": caption(("a cat", box(0, 1)))}
    for mode in MODES:
        assert score_grounding(predicted, reference, mode).scores == pytest.approx(
            {"mIoU": 2 / 3, "recall": 2 / 3}
        )


@pytest.mark.parametrize("mode", MODES)
def test_irregular_input_is_noted_and_counts_nothing(mode):
    reference = dict.fromkeys(("right", "missing", "size"), caption(("a", box(0, 4))))
    predicted = {
        "right": reference["right"],
        "size": caption(("a", box(0, 4, (9, 10)))),
        "unknown": REFERENCE,
    }
    result = score_grounding(predicted, {**reference, "nothing": caption()}, mode)
    assert result.notes == {
        "unknown prediction": ("unknown",),
        "missing prediction": ("missing", "nothing"),
        "sizes disagree": ("size",),
        "no reference mask": ("nothing",),
    }
    assert result.scores["recall"] == pytest.approx(1 / 3)


def test_an_empty_split_is_noted():
    compat, strict = (score_grounding({}, {}, mode) for mode in MODES)
    assert (compat.scores, strict.scores) == ({"mIoU": 0, "recall": 0}, {})
    assert compat.notes == strict.notes == {"empty split": ()}
