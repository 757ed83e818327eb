"""What a single item is worth by a figure, and which figure tells items apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from glamm_jax.metrics.result import MODES, MetricResult, Mode

# By which items are ranked, the first that has a value of every item.
RANKING = ("mIoU", "gIoU", "CIDEr", "METEOR", "relative score", "recall", "cIoU")
ALONE = "_alone"  # behind the name of a figure that is no mean: what an item scores by itself


class Ranking(NamedTuple):
    """A figure of a mode, and every item's value of it."""

    mode: Mode
    figure: str
    values: Mapping[str, float]


def values_of(scored: MetricResult, figure: str) -> dict[str, float]:
    """Item id -> its own value of a figure: its column, or the ratio of its columns.

    Of a figure that is formed over all items at once (METEOR), what the item scores alone. Items
    that have none, or one that is not finite, are left out.
    """
    if figure in scored.ratios:
        above, below = scored.ratios[figure]
        found = {
            name: row[above] / row[below]
            for name, row in scored.per_item.items()
            if row.get(below) and above in row
        }
    else:
        column = column_of(scored, figure)
        found = {name: row[column] for name, row in scored.per_item.items() if column in row}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def column_of(scored: MetricResult, figure: str) -> str:
    """The column of items' own values: the figure's, else what items score alone; "" for none."""
    present = {column for row in scored.per_item.values() for column in row}
    return next((name for name in (figure, f"{figure}{ALONE}") if name in present), "")


def ranked(scored_by_mode: Mapping[Mode, MetricResult]) -> Ranking | None:
    """By what items are told apart, by definition rather than as the original counts; or None."""
    for mode in reversed(MODES):
        scored = scored_by_mode.get(mode, MetricResult({}))
        for figure in sorted(scored.scores, key=_preference):
            if values := values_of(scored, figure):
                return Ranking(mode, figure, values)
    return None


def _preference(figure: str) -> int:
    return RANKING.index(figure) if figure in RANKING else len(RANKING)
