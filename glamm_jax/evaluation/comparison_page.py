"""The page of a comparison of two evaluations: metrics, configurations, most changed items."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glamm_jax.config.flat import flatten_config
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.compare import LEVEL, changed_items, compare_scores, comparison_table
from glamm_jax.evaluation.item_cards import LoadImage, common_prompt, make_cards
from glamm_jax.evaluation.item_scores import rank_items
from glamm_jax.evaluation.provenance import provenance_warnings
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.report.html_page import Card, Page
from glamm_jax.storage import AnyPath

MAX_ITEMS = 8  # of each direction


@dataclass(frozen=True)
class ComparedRun:
    """One of the two evaluations.

    Attributes:
        name: of its folder.
        scores: of scores.json.
        config: content of config.json.
        predictions: by item id.
    """

    name: str
    scores: RunScores
    config: Mapping[str, Any]
    predictions: Mapping[str, Prediction]


def write_comparison(
    path: AnyPath, a: ComparedRun, b: ComparedRun, items: Mapping[str, Item], load_image: LoadImage
) -> None:
    """Write the page, atomically.

    Args:
        path: of the page.
        a: evaluation A.
        b: evaluation B.
        items: by id; items that are missing are shown without reference and image.
        load_image: loads the upright image of an item.

    Raises:
        CompareError: the evaluations are of different items.
    """
    differences = compare_scores(a.scores, b.scores)
    page = Page(f"{a.scores.benchmark}, {a.scores.split}", f"A: {a.name}, B: {b.name}")
    page.section("Metrics")
    header, rows = comparison_table(differences)
    page.table(header, [["" if cell is None else cell for cell in row] for row in rows])
    page.paragraph(
        f"Intervals are {LEVEL:.0%} intervals of a paired bootstrap over the items that both "
        "evaluations have; a star marks an interval that excludes 0. Where a metric is computed "
        "over all items at once, the interval is of the mean of the items' own values."
    )
    warnings = provenance_warnings(a.config, b.config)
    if warnings:
        page.section("What produced the predictions")
        page.table(("difference",), [(line,) for line in warnings])
    _add_config_changes(page, a.config, b.config)
    _add_changed_items(page, (a, b), items, load_image)
    page.save(path)


def _add_config_changes(page: Page, a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    flat_a, flat_b = flatten_config(dict(a)), flatten_config(dict(b))
    rows = [
        (name, *(json.dumps(x[name]) if name in x else "" for x in (flat_a, flat_b)))
        for name in dict.fromkeys((*flat_a, *flat_b))
        if flat_a.get(name) != flat_b.get(name)
    ]
    page.section("Differences in config.json")
    if rows:
        page.table(("field", "A", "B"), rows)
    else:
        page.paragraph("None.")


def _add_changed_items(
    page: Page,
    runs: tuple[ComparedRun, ComparedRun],
    items: Mapping[str, Item],
    load_image: LoadImage,
) -> None:
    """Add the distribution of changes, and the items that changed most."""
    a, b = (run.scores.modes for run in runs)
    ranking = rank_items({mode: result for mode, result in a.items() if mode in b})
    if not ranking:
        return
    changed = changed_items(a[ranking.mode], b[ranking.mode], ranking.metric)
    if not changed:
        return
    page.section(f"{ranking.metric} of items, {ranking.mode}")
    page.histograms({"B minus A, where they differ": [y - x for x, y in changed.values()]})
    prompt = common_prompt(items.values())
    if prompt:
        page.paragraph(f"prompt: {prompt}")
    for title, sign in (("Largest decreases", -1), ("Largest increases", 1)):
        names = [name for name, (x, y) in changed.items() if (y - x) * sign > 0][:MAX_ITEMS]
        if names:
            page.section(title, level=3)
            page.groups(
                [
                    _item_cards(name, runs, changed[name], items, load_image, not prompt)
                    for name in names
                ]
            )


def _item_cards(
    name: str,
    runs: tuple[ComparedRun, ComparedRun],
    values: tuple[float, float],
    items: Mapping[str, Item],
    load_image: LoadImage,
    show_prompt: bool,
) -> list[Card]:
    """Make cards of both predictions and, where the item is available, of the reference."""
    item = items.get(name, Item(name, name, -1, ""))
    pairs = [
        make_cards(
            item,
            run.predictions.get(name),
            load_image,
            f"{letter}: {name} {value:.3f}",
            show_prompt and name in items,
        )
        for letter, run, value in zip("AB", runs, values, strict=True)
    ]
    references = [reference for _, reference in pairs[:1] if name in items]
    return [*(prediction for prediction, _ in pairs), *references]
