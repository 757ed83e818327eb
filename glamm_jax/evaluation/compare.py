"""Comparison of two evaluations of one benchmark: differences of metrics and their intervals.

    for difference in compare_scores(load_scores(path_a), load_scores(path_b)):
        print(difference.metric, difference.value_a, difference.value_b, difference.low)

Intervals are a paired bootstrap over items: the items that both evaluations have are resampled with
replacement, the same ones for both, and the difference is computed anew. `Difference.basis` says
what the interval is of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.bootstrap import (
    ALONE,
    LEVEL,
    NONE,
    NUM_RESAMPLES,
    SEED,
    Basis,
    item_fractions,
    metric_basis,
    quantile_bounds,
    resampled_metrics,
)
from glamm_jax.evaluation.item_scores import item_values
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from glamm_jax.report.text_table import text_table


class CompareError(GLaMMError):
    """Two evaluations that cannot be compared."""


@dataclass(frozen=True)
class Difference:
    """A metric in two evaluations.

    Attributes:
        mode: of counting.
        metric: its name.
        value_a: in evaluation A, over all of its items.
        value_b: in evaluation B.
        basis: what the interval is of.
        num_items: items that both evaluations have.
        low: lower end of the interval of B minus A; None: no interval.
        high: upper end.
    """

    mode: Mode
    metric: str
    value_a: float
    value_b: float
    basis: Basis
    num_items: int
    low: float | None = None
    high: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


def compare_scores(
    a: RunScores, b: RunScores, num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> list[Difference]:
    """Compare every metric that both evaluations have, mode by mode.

    Args:
        a: scores of evaluation A.
        b: scores of evaluation B.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        CompareError: the evaluations are of different benchmarks, splits or data.
    """
    for name, value_a, value_b in (
        ("benchmark", a.benchmark, b.benchmark),
        ("split", a.split, b.split),
        ("data hash", a.data_hash, b.data_hash),
    ):
        if value_a != value_b:
            raise CompareError(
                f"the evaluations differ in their {name}, {value_a!r} and {value_b!r}: their "
                "metrics are of different items; compare evaluations of the same --data and --split"
            )
    modes: list[Mode] = [mode for mode in MODES if mode in a.modes and mode in b.modes]
    return [
        difference
        for mode in modes
        for difference in _compare_mode(mode, a.modes[mode], b.modes[mode], num_resamples, seed)
    ]


def comparison_table(
    differences: Sequence[Difference],
) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of a table; a star marks an interval that excludes 0."""
    header = [
        *("mode", "metric", "A", "B", "B minus A"),
        *(f"{LEVEL:.0%} from", "to", "", "interval of", "items"),
    ]
    return header, [
        [
            *(x.mode, x.metric, x.value_a, x.value_b, x.value_b - x.value_a),
            *(x.low, x.high, "*" if x.is_significant else "", x.basis, x.num_items),
        ]
        for x in differences
    ]


def comparison_text(differences: Sequence[Difference]) -> str:
    """Format the table for a terminal, with an explanation."""
    return (
        f"{text_table(*comparison_table(differences))}\n"
        f"Intervals: paired bootstrap over the items that both evaluations have, {NUM_RESAMPLES} "
        f"resamples; * where the interval excludes 0. {ALONE}: the metric is computed over all "
        "items at once, so the interval is of the mean of the items' own values."
    )


def changed_items(a: MetricResult, b: MetricResult, metric: str) -> dict[str, tuple[float, float]]:
    """Return the values of the items that differ, as id -> (A, B), the greatest change first.

    Args:
        a: metrics of evaluation A.
        b: metrics of evaluation B.
        metric: whose values are compared.
    """
    values_a, values_b = item_values(a, metric), item_values(b, metric)
    pairs = {name: (values_a[name], values_b[name]) for name in values_a if name in values_b}
    changed = (name for name in pairs if pairs[name][0] != pairs[name][1])
    return {
        name: pairs[name]
        for name in sorted(changed, key=lambda name: -abs(pairs[name][1] - pairs[name][0]))
    }


def _compare_mode(
    mode: Mode, a: MetricResult, b: MetricResult, num_resamples: int, seed: int
) -> list[Difference]:
    """Compare the metrics of one mode; all of them share the resampled items."""
    items = [name for name in a.per_item if name in b.per_item]
    metrics = [metric for metric in a.scores if metric in b.scores]
    bases: dict[str, Basis] = {metric: _basis(a, b, metric) for metric in metrics}
    bounded = [metric for metric in metrics if bases[metric] != NONE and items]
    fractions = np.stack([item_fractions(result, items, bounded) for result in (a, b)])
    values = resampled_metrics(fractions, num_resamples, np.random.default_rng(seed))
    with np.errstate(invalid="ignore"):
        low, high = quantile_bounds(values[1] - values[0])
    differences = []
    for metric in metrics:
        interval: tuple[float | None, float | None] = (None, None)
        if metric in bounded:
            i = bounded.index(metric)
            interval = (low[i], high[i])
        basis: Basis = bases[metric] if interval[0] is not None else NONE
        values = (a.scores[metric], b.scores[metric])
        differences.append(Difference(mode, metric, *values, basis, len(items), *interval))
    return differences


def _basis(a: MetricResult, b: MetricResult, metric: str) -> Basis:
    """Return what can be resampled of a metric in both evaluations."""
    if a.ratios.get(metric) != b.ratios.get(metric):
        return NONE
    bases: set[Basis] = {metric_basis(a, metric), metric_basis(b, metric)}
    return bases.pop() if len(bases) == 1 else NONE
