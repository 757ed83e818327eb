"""Intervals of compare_scores are those of a paired bootstrap, and say what they are of."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from glamm_jax.evaluation import bootstrap
from glamm_jax.evaluation.bootstrap import ALONE, MEAN, NONE, RATIO, metric_intervals
from glamm_jax.evaluation.compare import (
    CompareError,
    Difference,
    changed_items,
    compare_scores,
    comparison_text,
)
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.metrics.result import MetricResult

RATIOS = {"recall": ("matches", "phrases")}


def _result(shift: float, number: int = 60, seed: int = 0) -> MetricResult:
    """Items with a mean, a ratio, a metric of all items at once, and one without columns."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=number)
    phrases = random.integers(1, 9, number)
    each = {
        f"{i}": {
            "mIoU": 0.5 + noise[i] / 10 + shift,
            "matches": float(phrases[i] // 2 + (i % 3 == 0 and shift > 0)),
            "phrases": float(phrases[i]),
            "METEOR_alone": 0.2 + noise[i] / 50 + shift / 2,
        }
        for i in range(number)
    }
    mean = float(np.mean([row["mIoU"] for row in each.values()]))
    recall = sum(row["matches"] for row in each.values()) / float(phrases.sum())
    return MetricResult(
        {"mIoU": mean, "recall": recall, "METEOR": 0.3 + shift, "AP50": 0.4 + shift}, each, RATIOS
    )


def _run(scored: MetricResult) -> RunScores:
    return RunScores("gcg", "val", {"compat": scored}, data_hash="8c1f")


def _by_metric(a: MetricResult, b: MetricResult, num_resamples: int = 400) -> dict[str, Difference]:
    return {each.metric: each for each in compare_scores(_run(a), _run(b), num_resamples)}


def _reference(
    a: MetricResult,
    b: MetricResult,
    metric: Callable[[list[dict[str, float]]], float],
    num_resamples: int,
) -> tuple[float, float]:
    """The textbook's loop: draw items, form the metric of both runs, subtract."""
    names, random = list(a.per_item), np.random.default_rng(0)
    result = []
    for _ in range(num_resamples):
        drawn = [names[i] for i in random.integers(0, len(names), len(names))]
        before, after = ([dict(x.per_item[name]) for name in drawn] for x in (a, b))
        result.append(metric(after) - metric(before))
    low, high = np.quantile(result, (0.025, 0.975))
    return float(low), float(high)


def _mean_of(column: str) -> Callable[[list[dict[str, float]]], float]:
    return lambda rows: float(np.mean([row[column] for row in rows]))


def _recall(rows: list[dict[str, float]]) -> float:
    return sum(row["matches"] for row in rows) / sum(row["phrases"] for row in rows)


def test_intervals_are_those_of_drawing_item_by_item() -> None:
    a, b = _result(0.0), _result(0.02)
    random = np.random.default_rng(5)
    noisy = {
        name: {**row, "mIoU": row["mIoU"] + random.normal() / 20}
        for name, row in b.per_item.items()
    }
    b = replace(b, per_item=noisy)
    result = _by_metric(a, b)
    for metric, basis, rule in (
        ("mIoU", MEAN, _mean_of("mIoU")),
        ("recall", RATIO, _recall),
        ("METEOR", ALONE, _mean_of("METEOR_alone")),
    ):
        low, high = _reference(a, b, rule, 400)
        assert result[metric].basis == basis
        assert result[metric].low == pytest.approx(low, abs=1e-12)
        assert result[metric].high == pytest.approx(high, abs=1e-12)
    assert result["mIoU"].low != result["mIoU"].high


def test_pairing_makes_a_common_shift_certain() -> None:
    result = _by_metric(_result(0.0), _result(0.01))["mIoU"]
    assert result.low == pytest.approx(0.01)
    assert result.high == pytest.approx(0.01)
    assert result.is_significant
    same = _by_metric(_result(0.0), _result(0.0))["mIoU"]
    assert same.low == same.high == 0
    assert not same.is_significant


def test_a_figure_without_columns_has_no_interval_and_says_so() -> None:
    result = _by_metric(_result(0.0), _result(0.01))["AP50"]
    assert (result.basis, result.low, result.high, result.is_significant) == (
        NONE,
        None,
        None,
        False,
    )
    assert result.value_b - result.value_a == pytest.approx(0.01)


def test_draws_in_pieces_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = _result(0.0), _result(0.02, seed=1)
    complete = _by_metric(a, b)
    monkeypatch.setattr(bootstrap, "CHUNK", 150)
    assert _by_metric(a, b) == complete


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = 0
    for seed in range(60):
        random = np.random.default_rng(seed + 100)
        a, b = (
            MetricResult({"mIoU": 0.0}, {f"{i}": {"mIoU": float(x)} for i, x in enumerate(column)})
            for column in random.normal((0.0, 0.3), 1.0, (80, 2)).T
        )
        result = _by_metric(a, b)["mIoU"]
        assert result.low is not None
        assert result.high is not None
        hits += result.low <= 0.3 <= result.high
    assert 51 <= hits <= 60  # 95 % of 60, give or take three standard deviations


def test_only_common_items_are_drawn() -> None:
    a, b = _result(0.0), _result(0.02)
    fewer = {name: row for name, row in b.per_item.items() if int(name) >= 20}
    result = _by_metric(a, replace(b, per_item=fewer))
    assert result["mIoU"].num_items == 40
    cut = {name: row for name, row in a.per_item.items() if int(name) >= 20}
    low, high = _reference(replace(a, per_item=cut), replace(b, per_item=fewer), _recall, 400)
    assert result["recall"].low == pytest.approx(low, abs=1e-12)
    assert result["recall"].high == pytest.approx(high, abs=1e-12)


def test_runs_without_common_items_or_with_nothing_below_the_line_have_no_interval() -> None:
    a, b = _result(0.0), _result(0.02)
    apart = {f"b {name}": row for name, row in b.per_item.items()}
    result = _by_metric(a, replace(b, per_item=apart))
    assert {each.basis for each in result.values()} == {NONE}
    nothing = {name: {**row, "phrases": 0.0} for name, row in a.per_item.items()}
    result = _by_metric(replace(a, per_item=nothing), replace(b, per_item=nothing))
    assert (result["recall"].basis, result["recall"].low) == (NONE, None)
    gone = {name: {"mIoU": math.nan} for name in a.per_item}
    assert _by_metric(replace(a, per_item=gone), replace(a, per_item=gone))["mIoU"].basis == NONE


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("benchmark", {"benchmark": "refseg"}),
        ("split", {"split": "test"}),
        ("data hash", {"data_hash": "b"}),
    ],
)
def test_runs_of_different_questions_are_refused(name: str, change: dict[str, str]) -> None:
    run = _run(_result(0.0))
    with pytest.raises(CompareError, match=f"differ in their {name}"):
        compare_scores(run, replace(run, **change))


def test_the_table_says_what_its_intervals_are_of() -> None:
    text = comparison_text(
        compare_scores(_run(_result(0.0)), _run(_result(0.01)), num_resamples=50)
    )
    lines = {line.split()[1]: line for line in text.splitlines()[1:5]}
    assert "mean" in lines["mIoU"]
    assert "*" in lines["mIoU"]
    assert "ratio of sums" in lines["recall"]
    assert "mean of items alone" in lines["METEOR"]
    assert "no interval" in lines["AP50"]
    assert "*" not in lines["AP50"]


def test_items_that_changed_most_come_first() -> None:
    a = MetricResult({"mIoU": 0.0}, {"a": {"mIoU": 0.5}, "b": {"mIoU": 0.5}, "c": {"mIoU": 0.5}})
    b = MetricResult({"mIoU": 0.0}, {"a": {"mIoU": 0.6}, "b": {"mIoU": 0.1}, "c": {"mIoU": 0.5}})
    assert list(changed_items(a, b, "mIoU").items()) == [("b", (0.5, 0.1)), ("a", (0.5, 0.6))]


def test_the_interval_of_one_evaluation_is_that_of_drawing_item_by_item() -> None:
    result = _result(0.0)
    intervals = metric_intervals(result, 400)
    names, random = list(result.per_item), np.random.default_rng(0)
    drawn = [[names[i] for i in random.integers(0, 60, 60)] for _ in range(400)]
    for metric, basis, rule in (("mIoU", MEAN, _mean_of("mIoU")), ("recall", RATIO, _recall)):
        values = [rule([dict(result.per_item[name]) for name in sample]) for sample in drawn]
        low, high = np.quantile(values, (0.025, 0.975))
        assert intervals[metric] == (
            basis,
            pytest.approx(low),
            pytest.approx(high),
            60,
        )
    for metric in ("METEOR", "AP50"):
        assert intervals[metric] == (NONE, None, None, 60)
    assert metric_intervals(MetricResult({"AP50": 0.1})) == {"AP50": (NONE, None, None, 0)}
