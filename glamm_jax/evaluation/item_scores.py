"""The value of a metric for a single item, and the metric that items are ranked by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from glamm_jax.metrics.result import MODES, MetricResult, Mode

# The metrics that items are ranked by: the first that has values of items.
PREFERENCE = ("mIoU", "gIoU", "IoU_factual", "CIDEr", "METEOR", "relative score", "recall", "cIoU")
# Metrics of which a smaller value is better.
LOWER_IS_BETTER = frozenset(("CHAIRi", "CHAIRs", "CMS_factual", "CMS_counterfactual"))
# Suffix of the column with an item's own value of a metric that is no mean over items.
ALONE_SUFFIX = "_alone"


class Ranking(NamedTuple):
    """A metric of a mode, and its value for each item by id."""

    mode: Mode
    metric: str
    values: Mapping[str, float]


def item_values(result: MetricResult, metric: str) -> dict[str, float]:
    """Return the value of a metric for each item: its column, or the ratio of its columns.

    For a metric that is computed over all items at once (METEOR), the value of the item alone.
    Items without a finite value are left out.
    """
    if metric in result.ratios:
        numerator, denominator = result.ratios[metric]
        values = {
            name: row[numerator] / row[denominator]
            for name, row in result.per_item.items()
            if row.get(denominator) and numerator in row
        }
    else:
        column = item_column(result, metric)
        values = {name: row[column] for name, row in result.per_item.items() if column in row}
    return {name: value for name, value in values.items() if math.isfinite(value)}


def item_column(result: MetricResult, metric: str) -> str:
    """Return the column with the items' own values of a metric; "" if there is none."""
    columns = {column for row in result.per_item.values() for column in row}
    return next((name for name in (metric, f"{metric}{ALONE_SUFFIX}") if name in columns), "")


def rank_items(results: Mapping[Mode, MetricResult]) -> Ranking | None:
    """Choose a metric that has values of items, in mode strict if possible."""
    for mode in reversed(MODES):
        result = results.get(mode, MetricResult({}))
        for metric in sorted(result.scores, key=_preference):
            if values := item_values(result, metric):
                return Ranking(mode, metric, values)
    return None


def worst_first(ranking: Ranking) -> list[str]:
    """Return the ids of a ranking, the worst item first; equal values keep their order."""
    sign = -1 if ranking.metric in LOWER_IS_BETTER else 1
    return sorted(ranking.values, key=lambda name: sign * ranking.values[name])


def _preference(metric: str) -> int:
    return PREFERENCE.index(metric) if metric in PREFERENCE else len(PREFERENCE)
