"""One table of several evaluations of a benchmark, with the paper's rows: a table of the paper.

    evaluations = {"refcoco-val": scores, "refcoco-testA": other_scores}
    write_combined_table(Path("out/table4"), BENCHMARKS["refseg"], evaluations)

writes table.txt, table.md and table.json. A column is a metric on one split; the metrics are the
paper's where it has some of the split, otherwise all. Fractions, as in `scores.json`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from glamm_jax.evaluation.benchmarks.base import Benchmark
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.files import write_atomic
from glamm_jax.report.text_table import format_cell, text_table
from glamm_jax.storage import AnyPath

TABLE = "table"  # its files: table.txt, table.md, table.json

Cells = dict[tuple[str, str], float]  # (evaluation, metric) -> fraction


def write_combined_table(
    folder: AnyPath, benchmark: Benchmark, evaluations: Mapping[str, RunScores]
) -> str:
    """Write the table of several evaluations as text, Markdown and JSON.

    Args:
        folder: of the files.
        benchmark: of all evaluations.
        evaluations: sub-folder -> scores, in the order of the columns.

    Returns:
        The text.
    """
    header, rows = combined_table(benchmark, evaluations)
    text = text_table(header, rows) + "\n"
    write_atomic(folder / f"{TABLE}.txt", text)
    write_atomic(folder / f"{TABLE}.md", _markdown(header, rows))
    content = {
        "benchmark": benchmark.name,
        "evaluations": {
            name: {
                "split": scores.split,
                "data_hash": scores.data_hash,
                "similarity": scores.similarity,
                "counts": dict(scores.counts),
                "modes": {
                    mode: {key: _finite(x) for key, x in result.scores.items()}
                    for mode, result in scores.modes.items()
                },
                "paper": {
                    row.title: dict(row.metrics) for row in benchmark.published_rows(scores.split)
                },
            }
            for name, scores in evaluations.items()
        },
    }
    write_atomic(folder / f"{TABLE}.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    return text


def combined_table(
    benchmark: Benchmark, evaluations: Mapping[str, RunScores]
) -> tuple[list[str], list[list[object]]]:
    """Return the header, and a row for each mode and for each system of the paper.

    Args:
        benchmark: of all evaluations.
        evaluations: as in `write_combined_table`.
    """
    rows: dict[str, Cells] = {}
    columns: dict[tuple[str, str], None] = {}
    published: dict[str, Cells] = {}
    for name, scores in evaluations.items():
        paper_rows = benchmark.published_rows(scores.split)
        own = dict.fromkeys(key for result in scores.modes.values() for key in result.scores)
        metrics = dict.fromkeys(key for row in paper_rows for key in row.metrics) or own
        columns |= dict.fromkeys((name, key) for key in metrics)
        for mode, result in scores.modes.items():
            cells = rows.setdefault(f"ours, {mode}", {})
            cells |= {(name, key): value for key, value in result.scores.items()}
        for row in paper_rows:
            cells = published.setdefault(f"paper: {row.title}", {})
            cells |= {(name, key): value for key, value in row.metrics.items()}
    titles = {name: scores.split for name, scores in evaluations.items()}
    if len(set(titles.values())) < len(titles):  # the same split of different data
        titles = {name: name for name in titles}
    table: list[list[object]] = [
        [title, *(_finite(cells.get(column)) for column in columns)]
        for title, cells in (rows | published).items()
    ]
    return [benchmark.name, *(f"{titles[name]} {key}" for name, key in columns)], table


def _markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown; numbers are right-aligned."""
    lines = [[cell.replace("|", r"\|") for cell in header], ["---", *["---:"] * (len(header) - 1)]]
    lines += [[format_cell(cell).replace("|", r"\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
