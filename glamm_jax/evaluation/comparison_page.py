"""A page about two runs of one benchmark: their figures, and the items that changed most."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glamm_jax.config.flat import flatten_config
from glamm_jax.evaluation.compare import LEVEL, changes, comparison_table, differences
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.evaluation.item_cards import LoadImage, cards_of, common_question
from glamm_jax.evaluation.item_scores import ranked
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.report.html_page import Card, Page

SHOWN = 8  # items of each direction


@dataclass(frozen=True)
class ComparedRun:
    """One of the two runs: its folder's name, scores, config.json, and what was said to each id."""

    name: str
    scores: RunScores
    config: Mapping[str, Any]
    predictions: Mapping[str, Prediction]


def write_comparison(
    path: Path, one: ComparedRun, other: ComparedRun, items: Mapping[str, Item], pictures: LoadImage
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
    _changed(page, (one, other), items, pictures)
    page.save(path)


def _differing(page: Page, one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """The lines of their configurations that are not the same."""
    before, after = flatten_config(dict(one)), flatten_config(dict(other))
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
    sides: tuple[ComparedRun, ComparedRun],
    items: Mapping[str, Item],
    pictures: LoadImage,
) -> None:
    """How far items moved, and those that moved most."""
    one, other = (side.scores.modes for side in sides)
    ranking = ranked({mode: scored for mode, scored in one.items() if mode in other})
    changed = {}
    if ranking:
        changed = changes(one[ranking.mode], other[ranking.mode], ranking.figure)
    if not ranking or not changed:
        return
    page.section(f"{ranking.figure} of items, {ranking.mode}")
    page.histograms({"B minus A, where they differ": [b - a for a, b in changed.values()]})
    question = common_question(items.values())
    if question:
        page.paragraph(f"asked: {question}")
    for title, sign in (("Fell most", -1), ("Rose most", 1)):
        chosen = [name for name, (a, b) in changed.items() if (b - a) * sign > 0][:SHOWN]
        if not chosen:
            continue
        page.section(title, level=3)
        groups = []
        for name in chosen:
            a, b = (
                f"{letter}: {name} {x:.3f}" for letter, x in zip("AB", changed[name], strict=True)
            )
            groups.append(_cards(name, sides, (a, b), items, pictures, asks=not question))
        page.groups(groups)


def _cards(
    name: str,
    sides: tuple[ComparedRun, ComparedRun],
    titles: tuple[str, str],
    items: Mapping[str, Item],
    pictures: LoadImage,
    *,
    asks: bool,
) -> list[Card]:
    """What both said, and, where the item is known, what is true."""
    item = items.get(name, Item(name, name, -1, ""))
    pairs = [
        cards_of(item, side.predictions.get(name), pictures, title, asks and name in items)
        for side, title in zip(sides, titles, strict=True)
    ]
    return [*(said for said, _ in pairs), *(truth for _, truth in pairs[:1] if name in items)]
