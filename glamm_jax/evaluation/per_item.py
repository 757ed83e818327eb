"""What a single item is worth by a figure, and which figure tells items apart."""

from __future__ import annotations

import math
from collections.abc import Mapping

from glamm_jax.metrics.scored import Scored

# By which items are ranked, the first that has a value of every item.
RANKING = ("mIoU", "gIoU", "CIDEr", "METEOR", "relative score", "recall", "cIoU")


def values_of(scored: Scored, figure: str) -> dict[str, float]:
    """Item id -> its own value of a figure: its column, or the ratio of its columns.

    Items that have none, or one that is not finite, are left out.
    """
    if figure in scored.ratios:
        above, below = scored.ratios[figure]
        found = {
            name: row[above] / row[below]
            for name, row in scored.each.items()
            if row.get(below) and above in row
        }
    else:
        found = {name: row[figure] for name, row in scored.each.items() if figure in row}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def ranked(scored: Scored) -> tuple[str, Mapping[str, float]]:
    """The figure that tells items apart, and its values; none where no figure has any."""
    figures = sorted(
        scored.scores, key=lambda key: RANKING.index(key) if key in RANKING else len(RANKING)
    )
    every = ((figure, values_of(scored, figure)) for figure in figures)
    return next(((figure, values) for figure, values in every if values), ("", {}))
