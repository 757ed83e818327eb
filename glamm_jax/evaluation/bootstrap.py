"""Bootstrap over the items of an evaluation: intervals of its metrics.

    result = MetricResult({"mIoU": 0.5}, {"a": {"mIoU": 0.4}, "b": {"mIoU": 0.6}})
    intervals = metric_intervals(result)
    assert intervals["mIoU"].low <= 0.5 <= intervals["mIoU"].high

The items are resampled with replacement, and the metric is computed anew. `MetricInterval.basis`
says what the interval is of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from glamm_jax.evaluation.item_scores import item_column
from glamm_jax.metrics.result import MetricResult

NUM_RESAMPLES, SEED = 2000, 0
LEVEL = 0.95
CHUNK = 2_000_000  # random numbers that are generated at once
# What an interval is of: the metric itself, where it is a mean or a ratio of sums over the items;
# the mean of the items' own values, where the metric is computed over all items at once; or there
# is no interval.
MEAN: Final = "mean"
RATIO: Final = "ratio of sums"
ALONE: Final = "mean of items alone"
NONE: Final = "no interval"
Basis = Literal["mean", "ratio of sums", "mean of items alone", "no interval"]


class MetricInterval(NamedTuple):
    """The interval of a metric.

    Attributes:
        basis: what it is of.
        low: lower end; None: no interval.
        high: upper end.
        num_items: items that contribute to the metric.
    """

    basis: Basis
    low: float | None = None
    high: float | None = None
    num_items: int = 0


def metric_intervals(
    result: MetricResult, num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> dict[str, MetricInterval]:
    """Return the interval of every metric that is a mean or a ratio of sums over the items.

    A metric that is computed over all items at once has none: the mean of the items' own values is
    another number.

    Args:
        result: metrics of one mode.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    items = [*result.per_item]
    bases: dict[str, Basis] = {metric: metric_basis(result, metric) for metric in result.scores}
    bounded = [metric for metric, basis in bases.items() if basis in (MEAN, RATIO) and items]
    fractions = item_fractions(result, items, bounded)[None]
    values = resampled_metrics(fractions, num_resamples, np.random.default_rng(seed))
    low, high = quantile_bounds(values[0])
    counts = fractions[0].any(axis=2).sum(axis=0)
    ends = {metric: (low[i], high[i], int(counts[i])) for i, metric in enumerate(bounded)}
    return {
        metric: MetricInterval(basis, *ends[metric])
        if metric in ends
        else MetricInterval(NONE, num_items=len(items))
        for metric, basis in bases.items()
    }


def metric_basis(result: MetricResult, metric: str) -> Basis:
    """Return what can be resampled of a metric."""
    if metric in result.ratios:
        return RATIO
    column = item_column(result, metric)
    if column == metric:
        return MEAN
    return ALONE if column else NONE


def item_fractions(
    result: MetricResult, items: Sequence[str], metrics: Sequence[str]
) -> Float[np.ndarray, "items metrics 2"]:
    """Return numerator and denominator of each item; those of a mean are its value and 1.

    Args:
        result: of the evaluation.
        items: their ids.
        metrics: means and ratios, as `metric_basis` says.
    """
    rows = [result.per_item[name] for name in items]
    fractions = np.ones((len(items), len(metrics), 2))
    for i, metric in enumerate(metrics):
        columns = result.ratios.get(metric) or (item_column(result, metric),)
        for side, column in enumerate(columns):
            fractions[:, i, side] = [row.get(column, math.nan) for row in rows]
    # An item without a finite value adds nothing.
    return np.where(np.isfinite(fractions).all(2, keepdims=True), fractions, 0.0)


def resampled_metrics(
    fractions: Float[np.ndarray, "runs items metrics 2"],
    num_resamples: int,
    rng: np.random.Generator,
) -> Float[np.ndarray, "runs resamples metrics"]:
    """Return the metrics of every resample of the items, the same items for all runs.

    Args:
        fractions: as `item_fractions` returns, of one or more evaluations of the same items.
        num_resamples: number of resamples.
        rng: chooses the items.
    """
    num_runs, num_items, num_metrics = fractions.shape[:3]
    if not num_items or not num_metrics:
        return np.full((num_runs, num_resamples, num_metrics), math.nan)
    columns = fractions.transpose(1, 0, 2, 3).reshape(num_items, -1)
    values = []
    chunk = max(1, CHUNK // num_items)
    for start in range(0, num_resamples, chunk):
        rows = min(chunk, num_resamples - start)
        sample = rng.integers(0, num_items, (rows, num_items))
        sample += num_items * np.arange(rows)[:, None]
        counts = np.bincount(sample.ravel(), minlength=rows * num_items).astype(np.float64)
        totals = (counts.reshape(rows, -1) @ columns).reshape(rows, num_runs, num_metrics, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            values.append(totals[..., 0] / totals[..., 1])
    return np.concatenate(values).transpose(1, 0, 2)


def quantile_bounds(
    values: Float[np.ndarray, "resamples metrics"],
) -> tuple[list[float | None], list[float | None]]:
    """Return lower and upper ends of each metric; None where no resample has a finite value."""
    tail = (1 - LEVEL) / 2
    ends: tuple[list[float | None], list[float | None]] = ([], [])
    for column in values.T:
        finite = column[np.isfinite(column)]
        bounds = np.quantile(finite, (tail, 1 - tail)) if finite.size else (None, None)
        for side, bound in zip(ends, bounds, strict=True):
            side.append(None if bound is None else float(bound))
    return ends
