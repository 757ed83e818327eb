"""What a single item is worth by a figure, and which figure tells items apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

from glamm_jax.metrics.scored import Scored

# By which items are ranked, the first that has a value of every item.
RANKING = ("mIoU", "gIoU", "CIDEr", "METEOR", "relative score", "recall", "cIoU")
ALONE = "_alone"  # behind the name of a figure that is no mean: what an item scores by itself


def values_of(scored: Scored, figure: str) -> dict[str, float]:
    """Item id -> its own value of a figure: its column, or the ratio of its columns.

    Of a figure that is formed over all items at once (METEOR), what the item scores alone. Items
    that have none, or one that is not finite, are left out.
    """
    if figure in scored.ratios:
        above, below = scored.ratios[figure]
        found = {
            name: row[above] / row[below]
            for name, row in scored.each.items()
            if row.get(below) and above in row
        }
    else:
        column = column_of(scored, figure)
        found = {name: row[column] for name, row in scored.each.items() if column in row}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def column_of(scored: Scored, figure: str) -> str:
    """The column of items' own values: the figure's, else what items score alone; "" for none."""
    present = {column for row in scored.each.values() for column in row}
    return next((name for name in (figure, f"{figure}{ALONE}") if name in present), "")


def ranked(scored: Scored) -> tuple[str, Mapping[str, float]]:
    """The figure that tells items apart, and its values; none where no figure has any."""
    figures = sorted(
        scored.scores, key=lambda key: RANKING.index(key) if key in RANKING else len(RANKING)
    )
    every = ((figure, values_of(scored, figure)) for figure in figures)
    return next(((figure, values) for figure, values in every if values), ("", {}))
