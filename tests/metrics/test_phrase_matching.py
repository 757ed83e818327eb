"""Phrases match if their words are the same."""

from __future__ import annotations

import numpy as np

from glamm_jax.metrics.phrase_matching import (
    content_words,
    match_phrases,
    score_phrases,
    sum_scores,
)

HERE = np.eye(4, dtype=bool)
THERE = ~HERE


def test_articles_case_and_punctuation_do_not_matter() -> None:
    assert content_words("The red  Circle,") == content_words("a red circle") == ("red", "circle")
    assert content_words("circle red") != content_words("red circle")
    assert content_words("an a") == ()


def test_a_predicted_phrase_is_used_once() -> None:
    assert match_phrases(["a red star"], ["red star", "red star"]) == [0, None]
    assert match_phrases(["a star", "a red star"], ["red star", "blue star"]) == [1, None]


def test_masks_count_for_all_reference_phrases() -> None:
    predicted = [("a red star", HERE), ("a blue ring", THERE)]
    reference = [("red star", HERE), ("green ring", THERE)]
    scores = score_phrases(predicted, reference)
    assert (scores.num_predicted, scores.num_reference, scores.num_correct) == (2, 2, 1)
    assert scores.mask_iou == 0.5
    assert score_phrases([("a red star", None)], reference[:1]).mask_iou == 0


def test_too_many_and_too_few_phrases_lower_the_score() -> None:
    reference = [("red star", HERE), ("blue ring", HERE)]
    much = score_phrases(
        [(f"a {c} {s}", HERE) for c in ("red", "blue") for s in ("star", "ring")], reference
    )
    assert (much.recall, much.precision) == (1.0, 0.5)
    little = score_phrases([("a red star", HERE)], reference)
    assert (little.recall, little.precision) == (0.5, 1.0)


def test_sums_weigh_every_phrase_alike() -> None:
    item = score_phrases([("a red star", HERE)], [("red star", HERE)])
    none = score_phrases([], [("red star", HERE)] * 3)
    total = sum_scores([item, none])
    assert (total.num_predicted, total.num_reference, total.num_correct, total.mask_iou) == (
        1,
        4,
        1,
        0.25,
    )
    empty = score_phrases([], [])
    assert (empty.recall, empty.precision) == (1, 1)
