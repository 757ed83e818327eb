"""The report of an evaluation: metrics beside the paper's, distributions, best and worst items.

    load_image = image_loader(item_set.records)
    path, results = Path("out/report.html"), {"strict": result}
    write_report(path, benchmark, config, item_set.items, predictions, results, load_image)

The page is a single file without external resources (`glamm_jax.report.html_page`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from glamm_jax.config.flat import flatten_config
from glamm_jax.evaluation.benchmarks.base import FAILED, Benchmark, Item, Prediction
from glamm_jax.evaluation.item_cards import LoadImage, common_prompt, make_cards
from glamm_jax.evaluation.item_scores import item_values, rank_items, worst_first
from glamm_jax.evaluation.published import paper_table
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from glamm_jax.report.html_page import Page
from glamm_jax.storage import AnyPath

MAX_ITEMS = 8  # of the best, of the worst, and of those with problems


def write_report(
    path: AnyPath,
    benchmark: Benchmark,
    config: Mapping[str, Any],
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    results: Mapping[Mode, MetricResult],
    load_image: LoadImage,
) -> None:
    """Write the page, atomically.

    Args:
        path: of the page.
        benchmark: with the paper's rows and the differences between the modes.
        config: content of the evaluation's config.json; "split" selects the paper's rows.
        items: of the evaluation.
        predictions: for the items.
        results: metrics by mode.
        load_image: loads the upright image of an item; an OSError or ValueError becomes a line of
            the item's card.
    """
    split = str(config.get("split", ""))
    by_id = {prediction.id: prediction for prediction in predictions}
    problems = _problems(items, predictions)
    ids_with_problems = dict.fromkeys(name for names in problems.values() for name in names)
    page = Page(", ".join(filter(None, (benchmark.name, split))), str(config.get("model", "")))
    page.facts(
        {
            "images": len({item.image_id for item in items}),
            "items": len(items),
            "predictions": len(predictions),
            "items without a prediction": sum(item.id not in by_id for item in items),
            "predicted masks": sum(len(prediction.masks) for prediction in predictions),
            "reference masks": sum(len(item.reference_masks) for item in items),
            "predictions with problems": len(ids_with_problems),
        }
    )
    page.section("Scores")
    _add_scores(page, benchmark, split, results)
    page.section("Distributions over items")
    page.histograms(_distributions(items, predictions, results))
    for title, section_items, values in _item_sections(items, [*ids_with_problems], results):
        page.section(title)
        add_item_cards(page, section_items, by_id, values, load_image)
    page.section("Problems")
    page.section("In predictions", level=3)
    page.counts_by_kind(problems)
    for mode, result in results.items():
        page.section(f"Noted by scoring, {mode}", level=3)
        page.counts_by_kind(result.notes)
    page.section("Configuration")
    lines = [
        f"{name} = {json.dumps(value, default=str)}"
        for name, value in flatten_config(dict(config)).items()
    ]
    page.collapsed("config.json", lines)
    page.save(path)


def _add_scores(
    page: Page, benchmark: Benchmark, split: str, results: Mapping[Mode, MetricResult]
) -> None:
    """Add the metrics beside the paper's, then compat beside strict with their difference."""
    metrics: dict[str, Mapping[str, float]] = {mode: x.scores for mode, x in results.items()}
    rows = benchmark.published_rows(split)
    if rows or len(metrics) < len(MODES):
        title = f"{benchmark.name}, {split}" if split else benchmark.name
        header, lines = paper_table(title, rows, metrics)
        page.table(header, [["" if cell is None else cell for cell in line] for line in lines])
    page.paragraph(
        "All shares are fractions. compat counts as the original's code does, which produced the "
        "paper's metrics; strict counts as each metric is defined."
    )
    if len(metrics) == len(MODES):
        header = ("metric", "compat", "strict", "strict minus compat", "how they differ")
        names = dict.fromkeys(name for values in metrics.values() for name in values)
        lines = []
        for name in names:
            compat, strict = (metrics[mode].get(name) for mode in MODES)
            if compat is None or strict is None:
                cells = ("" if compat is None else compat, "" if strict is None else strict)
                lines.append([name, *cells, "", ""])
            else:
                reason = benchmark.mode_differences.get(name, "") if strict != compat else ""
                lines.append([name, compat, strict, strict - compat, reason])
        page.table(header, lines)


def _distributions(
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    results: Mapping[Mode, MetricResult],
) -> dict[str, list[float]]:
    """Return values of items by name; a metric whose modes agree on all items has one entry."""
    distributions: dict[str, list[float]] = {}
    for metric in dict.fromkeys(key for x in results.values() for key in x.scores):
        by_mode = {mode: item_values(result, metric) for mode, result in results.items()}
        if len({tuple(sorted(values.items())) for values in by_mode.values()}) == 1:
            distributions[metric] = [*next(iter(by_mode.values())).values()]
        else:
            for mode, values in by_mode.items():
                distributions[f"{metric}, {mode}"] = [*values.values()]
    num_predicted = [float(len(prediction.masks)) for prediction in predictions]
    num_references = [float(len(item.reference_masks)) for item in items]
    distributions["words of a prediction"] = [float(len(x.text.split())) for x in predictions]
    if any(num_predicted) or any(num_references):
        distributions["masks of a prediction"] = num_predicted
        distributions["reference masks of an item"] = num_references
    distributions["score of a mask"] = [score for x in predictions for score in x.scores]
    return distributions


def _item_sections(
    items: Sequence[Item],
    ids_with_problems: Sequence[str],
    results: Mapping[Mode, MetricResult],
) -> list[tuple[str, list[Item], Mapping[str, str]]]:
    """Choose items to show, none of them twice.

    Returns:
        Sections: title, items, and the metric of each item as text by id.
    """
    by_id = {item.id: item for item in items}
    ranking = rank_items(results)
    mode, metric, values = ranking or ("", "", {})
    order = [name for name in worst_first(ranking) if name in by_id] if ranking else []
    texts = {name: f"{metric} {values[name]:.3f}" for name in order}
    num_best = min(MAX_ITEMS, (len(order) + 1) // 2)
    best = order[::-1][:num_best]
    worst = order[: len(order) - num_best][:MAX_ITEMS]
    chosen = {*best, *worst}
    others = [name for name in ids_with_problems if name in by_id and name not in chosen]
    rest = [name for name in by_id if not order and name not in others]
    sections = {
        f"Worst by {metric}, {mode}": worst,
        f"Best by {metric}, {mode}": best,
        "With problems": others[:MAX_ITEMS],
        "Some items": rest[:MAX_ITEMS],
    }
    return [(title, [by_id[x] for x in ids], texts) for title, ids in sections.items() if ids]


def add_item_cards(
    page: Page,
    items: Sequence[Item],
    predictions: Mapping[str, Prediction],
    values: Mapping[str, str],
    load_image: LoadImage,
) -> None:
    """Add prediction and reference of each item: two cards where there are masks, else one.

    Args:
        page: to which the cards are added.
        items: to be shown.
        predictions: by item id.
        values: item id -> text of its metric, for the title of its card.
        load_image: loads the upright image of an item.
    """
    prompt = common_prompt(items)
    if prompt:
        page.paragraph(f"prompt: {prompt}")
    pairs = []
    for item in items:
        title = f"{item.id} {values.get(item.id, '')}".strip()
        prediction = predictions.get(item.id)
        pairs.append(make_cards(item, prediction, load_image, title, show_prompt=not prompt))
    if any(card.masks for pair in pairs for card in pair):
        page.groups(pairs)
    else:
        page.cards(
            [
                replace(prediction, lines=[*prediction.lines, *reference.lines])
                for prediction, reference in pairs
            ]
        )


def _problems(items: Sequence[Item], predictions: Sequence[Prediction]) -> dict[str, list[str]]:
    """Group the problems of predictions by kind: their text without numbers and quotations."""
    forced = {item.id for item in items if item.history}  # their answers are limited on purpose
    problems: dict[str, list[str]] = {}
    for prediction in predictions:
        kinds = [re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "…", text) for text in prediction.problems]
        if prediction.finish == "length" and prediction.id not in forced:
            kinds.append("ended by its maximum length")
        if prediction.finish == FAILED and not kinds:
            kinds.append("failed prediction")
        for kind in dict.fromkeys(kinds):
            problems.setdefault(kind, []).append(prediction.id)
    return problems
