"""A page about two runs of one benchmark: their figures, and the items that changed most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glamm_jax.evaluation.cards import ASKS, Pictures, cards_of
from glamm_jax.evaluation.compare import LEVEL, changes, comparison_table, differences
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.per_item import ranked
from glamm_jax.evaluation.scores_file import RunScores
from glamm_jax.metrics.scored import Mode
from glamm_jax.report.html import Card, Line, Page
from glamm_jax.training.run_folder import dotted

SHOWN = 8  # items of each direction


@dataclass(frozen=True)
class Side:
    """One of the two runs: its folder's name, scores, config.json, and what was said to each id."""

    name: str
    scores: RunScores
    config: Mapping[str, Any]
    said: Mapping[str, Prediction]


def write_comparison(
    path: Path, one: Side, other: Side, items: Mapping[str, Item], pictures: Pictures
) -> None:
    """Write the page, all or nothing.

    Args:
        items: by id, as far as they are known; without them there are neither truths nor pictures.

    Raises: CompareError when the runs are of different questions.
    """
    found = differences(one.scores, other.scores)
    page = Page(f"{one.scores.benchmark}, {one.scores.split}", f"A: {one.name}, B: {other.name}")
    page.section("Figures")
    header, rows = comparison_table(found)
    page.table(header, [["" if cell is None else cell for cell in row] for row in rows])
    page.paragraph(
        f"Intervals hold {LEVEL:.0%} of a paired bootstrap over the items that both runs have; a "
        "star stands where 0 lies outside. Where a figure is formed over all items at once, the "
        "interval is of the mean of what the items score alone."
    )
    _differing(page, one.config, other.config)
    if found:
        _changed(page, found[0].mode, (one, other), items, pictures)
    page.save(path)


def _differing(page: Page, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """The lines of their configurations that are not the same."""
    before, after = dotted(dict(one)), dotted(dict(other))
    rows = [
        (name, *(json.dumps(x[name]) if name in x else "" for x in (before, after)))
        for name in dict.fromkeys((*before, *after))
        if before.get(name) != after.get(name)
    ]
    page.section("What the runs differ in")
    if rows:
        page.table(("config.json", "A", "B"), rows)
    else:
        page.paragraph("Nothing that their config.json tells.")


def _changed(
    page: Page,
    mode: Mode,
    sides: tuple[Side, Side],
    items: Mapping[str, Item],
    pictures: Pictures,
) -> None:
    """How far items moved, and those that moved most."""
    before, after = (side.scores.modes[mode] for side in sides)
    figure, _ = ranked(before)
    changed = changes(before, after, figure)
    if not changed:
        return
    page.section(f"{figure} of items, {mode}")
    page.histograms({"B minus A, where they differ": [b - a for a, b in changed.values()]})
    for title, sign in (("Fell most", -1), ("Rose most", 1)):
        chosen = [name for name, (a, b) in changed.items() if (b - a) * sign > 0][:SHOWN]
        if chosen:
            page.section(title, level=3)
            page.groups(
                [
                    _cards(name, sides, figure, changed[name], items.get(name), pictures)
                    for name in chosen
                ]
            )


def _cards(
    name: str,
    sides: tuple[Side, Side],
    figure: str,
    values: tuple[float, float],
    item: Item | None,
    pictures: Pictures,
) -> list[Card]:
    """What both said, and, where the item is known, what is true."""
    shown = item or Item(name, name, -1, "")
    pairs = [
        cards_of(
            shown, side.said.get(name), pictures, f"{letter}: {name} {figure} {value:.3f}", False
        )
        for letter, side, value in zip("AB", sides, values, strict=True)
    ]
    cards, truth = [card for card, _ in pairs], pairs[0][1]
    question = Line(shown.prompt, speaker=ASKS, is_question=True)
    return [*cards, replace(truth, lines=[question, *truth.lines])] if item else cards
