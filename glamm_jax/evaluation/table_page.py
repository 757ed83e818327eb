"""The page of a table of the paper: our results, published rows, intervals, the worst items.

    table = TABLES["table4"]
    entry, items = table.entries[0], item_set.items
    load_image = image_loader(item_set.records)
    evaluated = {entry.name: EvaluatedEntry(entry, scores, config, items, predictions, load_image)}
    write_table_page(Path("out/table4.html"), table, evaluated, {"refcocog-val": "no data"})

The page is a single file without external resources (`glamm_jax.report.html_page`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.bootstrap import LEVEL, NUM_RESAMPLES, metric_intervals
from glamm_jax.evaluation.evaluation_page import add_item_cards
from glamm_jax.evaluation.item_cards import LoadImage
from glamm_jax.evaluation.item_scores import rank_items, worst_first
from glamm_jax.evaluation.paper_tables import TableEntry, TablePlan
from glamm_jax.evaluation.published import PaperRow
from glamm_jax.evaluation.reported_rows import ROW_NOTES, ReportedRow, reported_rows
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.report.html_page import Page
from glamm_jax.storage import AnyPath

MAX_WORST = 6  # items of each entry
HASH_LENGTH = 12  # characters that are shown
FAILED_COUNT = "failed"

Cells = dict[tuple[str, str], float]  # (entry, metric) -> fraction


@dataclass(frozen=True)
class EvaluatedEntry:
    """A finished evaluation of an entry.

    Attributes:
        entry: of the table.
        scores: of scores.json.
        config: content of config.json.
        items: of the evaluation.
        predictions: by item id.
        load_image: loads the upright image of an item.
    """

    entry: TableEntry
    scores: RunScores
    config: Mapping[str, Any]
    items: Sequence[Item]
    predictions: Mapping[str, Prediction]
    load_image: LoadImage


def write_table_page(
    path: AnyPath,
    table: TablePlan,
    evaluated: Mapping[str, EvaluatedEntry],
    missing: Mapping[str, str],
) -> None:
    """Write the page, atomically.

    Args:
        path: of the page.
        table: whose entries are evaluated.
        evaluated: entry -> its evaluation, in the order of the columns.
        missing: entry -> why it is not evaluated.
    """
    models = dict.fromkeys(str(x.config.get("model", "")) for x in evaluated.values())
    page = Page(table.title, ", ".join(filter(None, models)))
    page.facts(
        {
            "datasets and splits": len(evaluated),
            "not evaluated": len(missing),
            "items": sum(len(x.items) for x in evaluated.values()),
            "failed predictions": sum(
                x.scores.counts.get(FAILED_COUNT, 0) for x in evaluated.values()
            ),
        }
    )
    page.section("Results")
    page.table(*results_table(table, evaluated))
    page.paragraph(
        "All values are fractions. compat counts as the original's code does, which produced the "
        "paper's rows; strict counts as each metric is defined. Rows of other publications were "
        "not measured by this project; those that are second-hand were not checked. A setting is "
        "unspecified where the source does not say whether the model was trained on the training "
        "split."
    )
    page.paragraph(table.remark)
    if missing:
        page.section("Not evaluated")
        page.table(("dataset and split", "reason"), [*missing.items()])
    page.section(f"{LEVEL:.0%} intervals")
    page.table(*interval_table(table, evaluated))
    page.paragraph(
        f"Bootstrap over the items, {NUM_RESAMPLES} resamples. A metric that is computed over all "
        "items at once (AP, METEOR, BLEU) has no interval."
    )
    page.section("Models and data")
    page.table(*provenance_table(evaluated))
    for name, entry in evaluated.items():
        _add_worst(page, name, entry)
    page.save(path)


def results_table(
    table: TablePlan, evaluated: Mapping[str, EvaluatedEntry]
) -> tuple[list[str], list[list[object]]]:
    """Return header and rows: ours, the paper's with their settings, those of others with sources.

    Args:
        table: whose benchmark has the rows.
        evaluated: as in `write_table_page`.
    """
    benchmark = BENCHMARKS[table.benchmark]
    own: dict[str, Cells] = {}
    paper: dict[tuple[str, str], Cells] = {}
    others: dict[tuple[str, str, str], Cells] = {}
    columns: dict[tuple[str, str], None] = {}
    for name, x in evaluated.items():
        rows: list[PaperRow] = benchmark.published_rows(x.scores.split)
        computed = dict.fromkeys(key for result in x.scores.modes.values() for key in result.scores)
        metrics = dict.fromkeys(key for row in rows for key in row.metrics) or computed
        columns |= dict.fromkeys((name, metric) for metric in metrics)
        for mode, result in x.scores.modes.items():
            own.setdefault(mode, {}).update(_cells(name, result.scores))
        for row in rows:
            paper.setdefault((row.name, row.setting), {}).update(_cells(name, row.metrics))
        reported: list[ReportedRow] = reported_rows(table.benchmark, x.scores.split)
        for row in reported:
            key = (row.name, row.setting, row.source)
            others.setdefault(key, {}).update(_cells(name, row.metrics))
    lines: list[tuple[tuple[str, str, str], Cells]] = [
        ((f"ours, {mode}", "see below", "this evaluation"), cells) for mode, cells in own.items()
    ]
    for (name, setting), cells in paper.items():
        note = f"; {ROW_NOTES[name]}" if name in ROW_NOTES else ""
        lines.append(((name, setting, f"the paper, table {table.number}{note}"), cells))
    lines += others.items()
    header = ["system", "setting", "source", *(f"{name} {metric}" for name, metric in columns)]
    return header, [
        [*labels, *("" if (value := cells.get(x)) is None else value for x in columns)]
        for labels, cells in lines
    ]


def _cells(name: str, metrics: Mapping[str, float]) -> Cells:
    return {(name, key): value for key, value in metrics.items() if math.isfinite(value)}


def interval_table(
    table: TablePlan, evaluated: Mapping[str, EvaluatedEntry]
) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of the metrics of the table's columns, with their intervals.

    Args:
        table: whose benchmark has the rows.
        evaluated: as in `write_table_page`.
    """
    header = ["dataset and split", "mode", "metric", "value", "from", "to", "interval of", "items"]
    lines: list[list[object]] = []
    for name, x in evaluated.items():
        rows = BENCHMARKS[table.benchmark].published_rows(x.scores.split)
        published = dict.fromkeys(key for row in rows for key in row.metrics)
        for mode, result in x.scores.modes.items():
            intervals = metric_intervals(result)
            for metric in [key for key in result.scores if key in published or not published]:
                interval = intervals[metric]
                ends = ["" if end is None else end for end in (interval.low, interval.high)]
                value = result.scores[metric]
                cells = [name, mode, metric, value if math.isfinite(value) else "", *ends]
                lines.append([*cells, interval.basis, interval.num_items])
    return header, lines


def provenance_table(
    evaluated: Mapping[str, EvaluatedEntry],
) -> tuple[list[str], list[list[object]]]:
    """Return header and rows of the model, its released counterpart, and the data of each entry.

    Args:
        evaluated: as in `write_table_page`.
    """
    header = [
        *("dataset and split", "model", "weights", "released checkpoint of the paper's row"),
        *("prompt", "data", "items", "predictions", "failed"),
    ]
    return header, [
        [
            name,
            str(x.config.get("model", "")),
            str(x.config.get("weights", ""))[:HASH_LENGTH],
            x.entry.checkpoint,
            str(x.config.get("question", "")),
            x.scores.data_hash[:HASH_LENGTH],
            *(x.scores.counts.get(key, 0) for key in ("items", "predictions", FAILED_COUNT)),
        ]
        for name, x in evaluated.items()
    ]


def _add_worst(page: Page, name: str, x: EvaluatedEntry) -> None:
    ranking = rank_items(x.scores.modes)
    if ranking is None:
        return
    by_id = {item.id: item for item in x.items}
    worst = [by_id[item] for item in worst_first(ranking) if item in by_id][:MAX_WORST]
    if worst:
        page.section(f"Worst of {name} by {ranking.metric}, {ranking.mode}")
        texts = {item.id: f"{ranking.metric} {ranking.values[item.id]:.3f}" for item in worst}
        add_item_cards(page, worst, x.predictions, texts, x.load_image)
