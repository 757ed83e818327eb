"""Perfect predictions score 1 in both modes, empty ones 0; problems are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Item, Prediction, TextScorers
from glamm_jax.evaluation.llm_judge import Review, ReviewCase
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from tests.evaluation.conftest import FROM_RECORDS, miniworld
from tests.evaluation.example_predictions import empty_prediction, perfect_prediction

METRICS = {
    "gcg": ("AP50", "mIoU", "recall"),
    "refseg": ("cIoU", "gIoU", "free cIoU", "free gIoU"),
    "region_caption": ("exact",),
    "image_caption": ("exact",),
    "conversation": ("exact",),
    "phrase_grounding": ("mIoU", "recall"),
    "reason_seg": ("free cIoU", "free gIoU"),
    "grefcoco": ("cIoU", "gIoU"),
    "grounding_suite": ("gIoU", "box_accuracy"),
}


def score(name: str, predictions: Sequence[Prediction], mode: Mode) -> MetricResult:
    items = miniworld(name, 3).items
    return BENCHMARKS[name].score(items, {x.id: x for x in predictions}, mode, TextScorers())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", FROM_RECORDS)
def test_truth_scores_one_and_silence_nothing(name: str, mode: Mode) -> None:
    items = miniworld(name, 3).items
    best, worst = (
        score(name, [*map(predict, items)], mode)
        for predict in (perfect_prediction, empty_prediction)
    )
    for metric in METRICS[name]:
        assert best.scores[metric] == pytest.approx(1, abs=1e-4)
        assert worst.scores.get(metric, 0.0) == 0
    assert "missing prediction" not in best.notes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["gcg", "refseg", "phrase_grounding"])
def test_missing_and_unknown_predictions_and_other_sizes_are_named(name: str, mode: Mode) -> None:
    first, second, *others = miniworld(name, 3).items
    small = rle.encode(np.ones((2, 2), bool))
    resized = replace(
        perfect_prediction(second), masks=tuple(small for _ in second.reference_masks)
    )
    unknown = replace(perfect_prediction(second), id="unknown")
    result = score(name, [resized, unknown, *map(perfect_prediction, others)], mode)
    assert result.notes["missing prediction"] == (first.id,)
    assert second.id in result.notes["sizes disagree"]
    assert all(0 <= value <= 1 for value in result.scores.values() if value != -1)


def test_what_is_said_behind_known_answers_does_not_count() -> None:
    items = [item for item in miniworld("refseg", 3).items if item.history]
    more = {
        item.id: replace(
            perfect_prediction(item), masks=(*item.reference_masks, item.reference_masks[0])
        )
        for item in items
    }
    result = BENCHMARKS["refseg"].score(items, more, "strict", TextScorers())
    assert result.scores["cIoU"] == 1
    assert not result.notes


def test_pixels_covered_twice_are_background_in_the_originals_figures_alone() -> None:
    full, half = np.ones((4, 4), bool), np.zeros((4, 4), bool)
    half[:, :2] = True
    mask, overlap = rle.encode(full), rle.encode(half)
    item = Item("a", "a", 0, "?", reference_masks=(mask,), reference_overlaps=(overlap,))
    predictions = {"a": Prediction("a", "a", "", masks=(mask,), phrase_of=(-1,))}
    compat, strict = (
        BENCHMARKS["refseg"].score([item], predictions, m, TextScorers()) for m in MODES
    )
    assert compat.scores["free cIoU"] == pytest.approx(0.5)
    assert strict.scores["free cIoU"] == 1


def test_a_judge_compares_conversations_with_their_references() -> None:
    items = miniworld("conversation", 2).items
    reviewed: list[ReviewCase] = []

    def review(cases: Sequence[ReviewCase]) -> list[Review]:
        reviewed.extend(cases)
        return [Review(case.id, "8 4\nbecause") for case in cases]

    predictions = {item.id: perfect_prediction(item) for item in items}
    scorers = TextScorers(review=review)
    result = BENCHMARKS["conversation"].score(items, predictions, "compat", scorers)
    assert result.scores["relative score"] == pytest.approx(0.5)
    assert [(case.question, case.reference, case.answer) for case in reviewed] == [
        (item.prompt, item.reference_texts[0], item.reference_texts[0]) for item in items
    ]
