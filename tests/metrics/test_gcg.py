"""AP, mIoU and recall of grounded captions: original quirks in compat, definitions in strict."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.metrics.gcg import GroundedCaption, greedy_matches, read_pair, score_gcg
from glamm_jax.metrics.result import MODES, MetricError
from glamm_jax.metrics.similarity import WordSimilarity
from tests.metrics.scenes import EMPTY, box, caption

WORDS = WordSimilarity()
REFERENCE = caption(("a dog", box(0, 4)), ("the red bus", box(6, 4)))


def scores(predicted, reference, mode):
    return score_gcg({"1": predicted}, {"1": reference}, WORDS, mode).scores


def both(predicted, reference, metric):
    """Return a metric in compat and in strict mode."""
    return tuple(scores(predicted, reference, mode)[metric] for mode in MODES)


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_scores_perfectly(mode):
    metrics = scores(REFERENCE, REFERENCE, mode)
    assert all(metrics[name] == 1 for name in ("AP50", "AP75", "mIoU", "recall"))


# ------------------------------------------------------------------------------------- mIoU


def test_a_reference_mask_without_a_pair_costs_only_in_strict():
    assert both(caption(("a dog", box(0, 4))), REFERENCE, "mIoU") == (1.0, 0.5)


def test_greedy_pairs_take_the_best_first_and_strict_the_best_sum():
    reference = caption(("a", box(0, 5)), ("b", box(2, 5)))
    predicted = caption(("a", box(0, 6)), ("b", box(0, 2)))
    assert both(predicted, reference, "mIoU") == pytest.approx((5 / 6, (4 / 7 + 2 / 5) / 2))


def test_two_empty_masks_end_the_pairing_and_agree_in_strict():
    reference = caption(("a dog", box(0, 4)), ("nothing", EMPTY))
    assert both(reference, reference, "mIoU") == (0.0, 1.0)


def test_an_image_without_pairs_counts_zero():
    assert both(caption(("a dog", box(4, 2))), REFERENCE, "mIoU") == (0.0, 0.0)


# ----------------------------------------------------------------------------------- recall


def test_the_first_failing_pair_ends_the_search_in_compat_alone():
    predicted = caption(("a cat", box(0, 4)), ("the red bus", box(6, 3)))
    assert both(predicted, REFERENCE, "recall") == (0.0, 0.5)


def test_strict_finds_as_many_as_can_be_found_at_once():
    reference = caption(("a dog", box(0, 4)), ("a dog", box(0, 5)))
    predicted = caption(("a dog", box(0, 4)), ("a dog", box(0, 7)))
    # The best pair takes the only mask that is good enough for the first dog, rightly.
    assert both(predicted, reference, "recall") == (1.0, 1.0)
    reference = caption(("a dog", box(0, 5)), ("a bus", box(0, 6)))
    predicted = caption(("a bus", box(0, 5)), ("a dog", box(0, 4)))
    assert both(predicted, reference, "recall") == (0.0, 1.0)


def test_thresholds_are_reached_in_compat_and_exceeded_in_strict():
    half = caption(("a dog", box(0, 2)))
    assert both(half, caption(("a dog", box(0, 4))), "recall") == (1.0, 0.0)
    alike = caption(("dog here", box(0, 4)))
    assert both(alike, caption(("dog there", box(0, 4))), "recall") == (1.0, 0.0)


def test_masks_belong_to_phrases_by_number_in_compat_and_by_place_in_strict():
    predicted = caption(("a cat", None), ("a dog", box(0, 4)), ("the red bus", box(6, 4)))
    assert both(predicted, REFERENCE, "recall") == (0.0, 1.0)


def test_a_mask_without_a_label_of_its_number_undoes_the_matches_of_the_image():
    predicted = GroundedCaption("", ("a dog",), REFERENCE.masks, (0, -1))
    assert both(predicted, REFERENCE, "recall") == (0.0, 0.5)
    result = score_gcg({"1": predicted}, {"1": REFERENCE}, WORDS, "compat")
    assert result.per_item["1"]["recall_true"] == 2
    assert result.notes == {"fewer phrases than masks": ("1",)}


def test_two_empty_masks_match_before_all_others_in_compat():
    reference = caption(("a dog", box(0, 4)), ("nothing", EMPTY))
    assert greedy_matches(read_pair("1", reference, reference), WORDS) == [(1, 1), (0, 0)]


def test_recall_is_over_phrases_in_compat_and_over_masks_in_strict():
    reference = caption(("a dog", box(0, 4)), ("the red bus", None))
    assert both(reference, reference, "recall") == (0.5, 1.0)


def test_recall_weighs_phrases_and_the_columns_give_it():
    predicted = {"1": REFERENCE, "2": caption()}
    reference = {"1": REFERENCE, "2": caption(("a", box(0, 1)))}
    for mode in MODES:
        result = score_gcg(predicted, reference, WORDS, mode)
        above, below = result.ratios["recall"]
        sums = [sum(item[name] for item in result.per_item.values()) for name in (above, below)]
        assert result.scores["recall"] == sums[0] / sums[1] == 2 / 3
        mean = np.mean([item["mIoU"] for item in result.per_item.values()])
        assert result.scores["mIoU"] == mean == 0.5


# --------------------------------------------------------------------------------------- AP


def test_ties_are_ranked_by_order_in_compat_and_not_at_all_in_strict():
    right, wrong = ("a dog", box(0, 4)), ("a bus", box(4, 2))
    reference = caption(right)
    assert both(caption(right, wrong), reference, "AP50") == (pytest.approx(1), 0.5)
    assert both(caption(wrong, right), reference, "AP50") == (pytest.approx(0.5), 0.5)


def test_the_order_of_images_is_that_of_their_ids_in_compat():
    right, wrong = caption(("a", box(0, 4))), caption(("a", box(5, 4)))
    reference = {"9": right, "10": right}
    for predicted, expected in (
        ({"9": right, "10": wrong}, 0.25),
        ({"9": wrong, "10": right}, 0.5),
    ):
        # 51 of 101 levels of recall are reached.
        compat = score_gcg(predicted, reference, WORDS, "compat").scores["AP50"]
        assert compat == pytest.approx(expected * 2 * 51 / 101)
        assert score_gcg(predicted, reference, WORDS, "strict").scores["AP50"] == pytest.approx(
            0.5 * 51 / 101
        )


def test_scores_rank_in_strict_alone():
    right, wrong = ("a dog", box(0, 4)), ("a bus", box(4, 2))
    predicted = caption(wrong, right, scores=(0.2, 0.9))
    assert both(predicted, caption(right), "AP50") == (pytest.approx(0.5), 1.0)


def test_sizes_without_references_are_minus_one_in_compat_and_absent_in_strict():
    assert scores(REFERENCE, REFERENCE, "compat")["AP_large"] == -1
    assert "AP_large" not in scores(REFERENCE, REFERENCE, "strict")
    assert scores(REFERENCE, REFERENCE, "strict")["AP_small"] == 1


# -------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("mode", MODES)
def test_a_missing_prediction_is_an_empty_one_and_an_unknown_one_is_left_out(mode):
    reference = {"1": REFERENCE, "2": REFERENCE}
    result = score_gcg({"1": REFERENCE, "3": REFERENCE}, reference, WORDS, mode)
    assert (
        result.scores == score_gcg({"1": REFERENCE, "2": caption()}, reference, WORDS, mode).scores
    )
    assert result.scores["recall"] == result.scores["mIoU"] == 0.5
    assert result.notes == {"unknown prediction": ("3",), "missing prediction": ("2",)}
    assert set(result.per_item) == {"1", "2"}


def test_an_empty_split_is_noted_and_gives_the_originals_values_or_none():
    compat = score_gcg({}, {}, WORDS, "compat")
    assert (compat.scores["AP50"], compat.scores["mIoU"], compat.scores["recall"]) == (-1, 0, 0)
    strict = score_gcg({}, {}, WORDS, "strict")
    assert strict.scores == {}
    assert compat.notes == strict.notes == {"empty split": ()}


def test_an_empty_prediction_scores_zero():
    for mode in MODES:
        metrics = scores(caption(), REFERENCE, mode)
        assert metrics["AP"] == metrics["mIoU"] == metrics["recall"] == 0


def test_an_image_without_references_counts_in_compat_and_only_its_false_masks_in_strict():
    predicted = {"1": REFERENCE, "2": caption(("a", box(0, 4)))}
    reference = {"1": REFERENCE, "2": caption()}
    compat, strict = (score_gcg(predicted, reference, WORDS, mode) for mode in MODES)
    assert (compat.scores["mIoU"], strict.scores["mIoU"]) == (0.5, 1.0)
    assert compat.scores["recall"] == strict.scores["recall"] == 1
    assert strict.scores["AP50"] == pytest.approx(2 / 3)
    assert compat.notes == strict.notes == {"no reference mask": ("2",)}


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_predicted_mask_agrees_with_no_other(mode):
    result = score_gcg({"1": caption(("a dog", EMPTY))}, {"1": REFERENCE}, WORDS, mode)
    assert result.scores["mIoU"] == result.scores["recall"] == result.scores["AP"] == 0
    assert result.notes == {"empty predicted mask": ("1",)}


def test_masks_of_another_size_agree_with_nothing_and_end_recall_in_compat():
    predicted = caption(("a dog", box(0, 4)), ("the red bus", box(6, 4, (9, 10))))
    result = score_gcg({"1": predicted}, {"1": REFERENCE}, WORDS, "compat")
    assert result.notes == {"sizes disagree": ("1",)}
    assert both(predicted, REFERENCE, "recall") == (0.0, 0.5)
    assert both(predicted, REFERENCE, "mIoU") == (1.0, 0.5)


def test_more_phrases_than_masks_are_noted_and_shift_the_labels_in_compat():
    predicted = caption(("a cat", None), ("a dog", box(0, 4)))
    for mode in MODES:
        assert score_gcg({"1": predicted}, {"1": REFERENCE}, WORDS, mode).notes == {
            "more phrases than masks": ("1",)
        }


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_rank_last(bad):
    right, wrong = ("a dog", box(0, 4)), ("a bus", box(4, 2))
    predicted = caption(wrong, right, scores=(bad, 0.1))
    for mode, expected in zip(MODES, (0.5, 1.0), strict=True):
        result = score_gcg({"1": predicted}, {"1": caption(right)}, WORDS, mode)
        assert result.scores["AP50"] == pytest.approx(expected)
        assert result.notes == {"scores not finite": ("1",)}


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (
            GroundedCaption("", ("a",), ({"size": [8, 10], "counts": "o"},), (0,)),
            "1: mask 0 of the pre",
        ),
        (
            GroundedCaption("", ("a",), (EMPTY,), ()),
            "1: the prediction has 1 masks but 0 phrase indices",
        ),
        (
            GroundedCaption("", ("a",), (EMPTY,), (1,)),
            "1: a mask of the prediction has the index of a missing phrase",
        ),
        (
            GroundedCaption("", ("a",), (EMPTY,), (0,), (1.0, 1.0)),
            "1: the prediction has 1 masks but 2 scores",
        ),
    ],
)
def test_broken_predictions_are_errors_with_their_image(predicted, message):
    for mode in MODES:
        with pytest.raises(MetricError, match=message):
            score_gcg({"1": predicted}, {"1": REFERENCE}, WORDS, mode)
