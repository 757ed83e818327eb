"""Two runs of one benchmark: how far apart they are, and how sure that is.

    for each in differences(load_scores(a), load_scores(b)):
        each.figure, each.one, each.other, each.low, each.high

A paired bootstrap by item: the items that both runs have are drawn with replacement, the same ones
for both, and the difference is formed anew. What the interval is of is said in `Difference.of`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from glamm_jax.errors import GLaMMError
from glamm_jax.evaluation.item_scores import column_of, values_of
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from glamm_jax.report.text_table import text_table

DRAWS, SEED = 2000, 0
LEVEL = 0.95
ROOM = 2_000_000  # numbers drawn at once
# What an interval is of: the figure itself, where it is a mean or a ratio of sums over the items;
# the mean of what items score alone, where the figure is formed over all items at once; of nothing.
MEAN, RATIO, ALONE, NONE = "mean", "ratio of sums", "mean of items alone", "no interval"
Of = Literal["mean", "ratio of sums", "mean of items alone", "no interval"]


class CompareError(GLaMMError):
    """Two runs that cannot be compared. Says in what they differ."""


@dataclass(frozen=True)
class Difference:
    """A figure of two runs, over all items of each, and the interval of other minus one.

    The interval is over the `num_items` that both have; None where there is none.
    """

    mode: Mode
    figure: str
    one: float
    other: float
    of: Of
    num_items: int
    low: float | None = None
    high: float | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and self.low * self.high > 0


def differences(
    one: RunScores, other: RunScores, draws: int = DRAWS, seed: int = SEED
) -> list[Difference]:
    """Every figure that both runs have, mode by mode.

    Raises: CompareError when the runs are of different benchmarks, splits or data.
    """
    for name, said, told in (
        ("benchmark", one.benchmark, other.benchmark),
        ("split", one.split, other.split),
        ("data hash", one.data_hash, other.data_hash),
    ):
        if said != told:
            raise CompareError(
                f"the runs differ in their {name}, {said!r} and {told!r}: their figures are of "
                "different questions; compare runs of the same --data and --split"
            )
    modes: list[Mode] = [mode for mode in MODES if mode in one.modes and mode in other.modes]
    return [
        found
        for mode in modes
        for found in _of_mode(mode, one.modes[mode], other.modes[mode], draws, seed)
    ]


def comparison_table(found: Sequence[Difference]) -> tuple[list[str], list[list[object]]]:
    """Header and rows; a star where the interval leaves 0 out."""
    header = [
        *("mode", "figure", "A", "B", "B minus A"),
        *(f"{LEVEL:.0%} from", "to", "", "interval of", "items"),
    ]
    return header, [
        [
            *(each.mode, each.figure, each.one, each.other, each.other - each.one),
            *(each.low, each.high, "*" if each.is_sure else "", each.of, each.num_items),
        ]
        for each in found
    ]


def as_text(found: Sequence[Difference]) -> str:
    """The table for a terminal, with what it means."""
    return (
        f"{text_table(*comparison_table(found))}\n"
        f"Intervals: paired bootstrap over the items that both runs have, {DRAWS} draws; * where 0 "
        f"lies outside. {ALONE}: the figure is formed over all items at once, so the interval is "
        "of the mean of what they score one by one."
    )


def changes(one: MetricResult, other: MetricResult, figure: str) -> dict[str, tuple[float, float]]:
    """Item id -> its value in both runs, those that differ, the greatest change first."""
    before, after = values_of(one, figure), values_of(other, figure)
    both = {name: (before[name], after[name]) for name in before if name in after}
    changed = (name for name in both if both[name][0] != both[name][1])
    return {
        name: both[name] for name in sorted(changed, key=lambda x: -abs(both[x][1] - both[x][0]))
    }


def _of_mode(
    mode: Mode, one: MetricResult, other: MetricResult, draws: int, seed: int
) -> list[Difference]:
    """Differences of one mode; the items are drawn once for all figures."""
    items = [name for name in one.per_item if name in other.per_item]
    figures = [figure for figure in one.scores if figure in other.scores]
    kinds: dict[str, Of] = {figure: _kind(one, other, figure) for figure in figures}
    bounded = [figure for figure in figures if kinds[figure] != NONE and items]
    sums = np.stack([_parts(scored, items, bounded) for scored in (one, other)])
    low, high = _interval(sums, draws, np.random.default_rng(seed))
    found = []
    for figure in figures:
        bounds: tuple[float | None, float | None] = (None, None)
        if figure in bounded:
            place = bounded.index(figure)
            bounds = (_or_none(low[place]), _or_none(high[place]))
        of: Of = kinds[figure] if bounds[0] is not None else NONE
        values = (one.scores[figure], other.scores[figure])
        found.append(Difference(mode, figure, *values, of, len(items), *bounds))
    return found


def _kind(one: MetricResult, other: MetricResult, figure: str) -> Of:
    """What can be drawn of a figure, in both runs."""
    if figure in one.ratios:
        return RATIO if one.ratios[figure] == other.ratios.get(figure) else NONE
    columns = {column_of(one, figure), column_of(other, figure)}
    if columns == {figure}:
        return MEAN
    return NONE if "" in columns or len(columns) > 1 else ALONE


def _parts(
    scored: MetricResult, items: Sequence[str], figures: Sequence[str]
) -> Float[np.ndarray, "items figures 2"]:
    """What each item adds above and below the line of each figure; of a mean, its value and 1."""
    rows = [scored.per_item[name] for name in items]
    parts = np.ones((len(items), len(figures), 2))
    for place, figure in enumerate(figures):
        columns = scored.ratios.get(figure) or (column_of(scored, figure),)
        for side, column in enumerate(columns):
            parts[:, place, side] = [row.get(column, math.nan) for row in rows]
    # An item without a value, or with none that is a number, adds nothing.
    return np.where(np.isfinite(parts).all(2, keepdims=True), parts, 0.0)


def _interval(
    sums: Float[np.ndarray, "2 items figures 2"], draws: int, random: np.random.Generator
) -> tuple[Float[np.ndarray, "figures"], Float[np.ndarray, "figures"]]:
    """Quantiles of the second run minus the first; NaN where no draw has a difference."""
    num_items, num_figures = sums.shape[1:3]
    if not num_items or not num_figures:
        return np.full(num_figures, math.nan), np.full(num_figures, math.nan)
    columns = sums.transpose(1, 0, 2, 3).reshape(num_items, -1)
    drawn = []
    chunk = max(1, ROOM // num_items)
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        chosen = random.integers(0, num_items, (rows, num_items))
        chosen += num_items * np.arange(rows)[:, None]
        times = np.bincount(chosen.ravel(), minlength=rows * num_items).astype(np.float64)
        totals = (times.reshape(rows, -1) @ columns).reshape(rows, 2, num_figures, 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            figures = totals[..., 0] / totals[..., 1]
            drawn.append(figures[:, 1] - figures[:, 0])
    tail = (1 - LEVEL) / 2
    found = np.concatenate(drawn)
    bounds = np.full((2, num_figures), math.nan)
    for place, values in enumerate(found.T):
        finite = values[np.isfinite(values)]
        if finite.size:
            bounds[:, place] = np.quantile(finite, (tail, 1 - tail))
    return bounds[0], bounds[1]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
