"""The metrics that the paper published, as rows beside those of an evaluation.

    benchmark = BENCHMARKS["gcg"]
    rows = benchmark.published_rows("val")
    assert (rows[0].name, rows[0].metrics["METEOR"]) == ("GLaMM", 0.162)
    print(beside_paper("gcg, val", rows, {"compat": {"METEOR": 0.158}}))

Every benchmark has its table in its own module (`glamm_jax.evaluation.benchmarks`). All metrics are
fractions, those that can exceed 1 included: CIDEr 106.8 is 1.068.

Source: Rasheed et al., GLaMM: Pixel Grounding Large Multimodal Model, CVPR 2024.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from glamm_jax.report.text_table import text_table

Setting = Literal["zero-shot", "fine-tuned", "unspecified"]
GLAMM = "GLaMM"
# Of the splits whose authors' names are added to refCOCO's names, those that the paper uses.
SPLIT_AUTHORS = ("unc", "umd")


@dataclass(frozen=True)
class PaperRow:
    """One system on one split.

    Attributes:
        name: of the system.
        split: in the spelling of `PaperTable.splits`.
        setting: fine-tuned on the benchmark's training split, or not; "unspecified" where the
            paper does not say.
        metrics: fractions; cells that the paper leaves open are absent.
        table: number of the table in the paper.
    """

    name: str
    split: str
    setting: Setting
    metrics: Mapping[str, float]
    table: int

    @property
    def is_glamm(self) -> bool:
        """Whether the system is the original of this project."""
        return self.name.startswith(GLAMM)

    @property
    def title(self) -> str:
        """Name, setting and source in one line."""
        setting = "" if self.setting == "unspecified" else f"{self.setting}, "
        return f"{self.name} ({setting}table {self.table})"


@dataclass(frozen=True)
class PaperTable:
    """A table as it is printed in the paper.

    Attributes:
        number: of the table.
        splits: of the columns; each has all metrics.
        metrics: of the columns of a split.
        lines: name, setting and cells of each system; the cells are percentages or "-", separated
            by spaces, split by split and within a split metric by metric.
    """

    number: int
    splits: Sequence[str]
    metrics: Sequence[str]
    lines: Sequence[tuple[str, Setting, str]]

    def rows(self) -> tuple[PaperRow, ...]:
        """Return one row per system and split, GLaMM's first, the others in their order."""
        rows = []
        for name, setting, line in self.lines:
            cells = line.split()
            for i, split in enumerate(self.splits):
                own = cells[i * len(self.metrics) : (i + 1) * len(self.metrics)]
                pairs = zip(self.metrics, own, strict=True)
                # Rounded, so that 16.2 / 100 is the float that 0.162 is.
                metrics = {key: round(float(cell) / 100, 6) for key, cell in pairs if cell != "-"}
                if metrics:
                    rows.append(PaperRow(name, split, setting, metrics, self.number))
        return tuple(sorted(rows, key=lambda row: not row.is_glamm))


def rows_of_split(rows: Sequence[PaperRow], split: str) -> list[PaperRow]:
    """Return the rows of one split, in their order.

    The spelling is free: `refcoco+|unc|testA` is `refcoco+/testA`, and `refcocog/val` of region
    captioning is `refcocog`.
    """
    return [row for row in rows if same_split(split, row.split)]


def same_split(split: str, published: str) -> bool:
    """Return whether a split is one of the paper's, whose spelling is free as in `rows_of_split`.

    Args:
        split: with the name of the data.
        published: in the spelling of `PaperTable.splits`.
    """
    return _normalize(split).startswith(_normalize(published))


def _normalize(split: str) -> str:
    # Other authors' splits, such as Google's of refCOCOg, are different splits and keep their name.
    parts = re.split(r"[^a-z0-9+]+", split.lower())
    return "".join(part for part in parts if part not in SPLIT_AUTHORS)


def beside_paper(
    title: str, rows: Sequence[PaperRow], metrics_by_mode: Mapping[str, Mapping[str, float]]
) -> str:
    """Format `paper_table` for a terminal, followed by the metrics that the paper does not have.

    Args:
        title: of the table: benchmark and split.
        rows: of the paper.
        metrics_by_mode: as in `paper_table`.
    """
    text = text_table(*paper_table(title, rows, metrics_by_mode))
    published = {key for row in rows for key in row.metrics}
    if not published:
        return f"{text}\nThe paper publishes no metrics of {title}."
    for name, metrics in metrics_by_mode.items():
        others = [f"{key} {value:.4f}" for key, value in metrics.items() if key not in published]
        text += f"\n{name}, other metrics: {', '.join(others)}" if others else ""
    return text


def paper_table(
    title: str, rows: Sequence[PaperRow], metrics_by_mode: Mapping[str, Mapping[str, float]]
) -> tuple[list[str], list[list[object]]]:
    """Build a table of our rows, then the paper's, with the differences to GLaMM's rows.

    The columns are the paper's metrics. Without rows of the paper, all of our metrics are listed,
    one per line.

    Args:
        title: of the table, in the first cell of the header.
        rows: of the paper.
        metrics_by_mode: mode -> metric -> fraction. The first one is compared with GLaMM; it
            should be `compat`, which counts as the original does.

    Returns:
        The header and the lines; None is an empty cell.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row.metrics))
    if not columns:
        names = dict.fromkeys(key for metrics in metrics_by_mode.values() for key in metrics)
        return [title, *(f"ours, {mode}" for mode in metrics_by_mode)], [
            [key, *(_finite(metrics.get(key)) for metrics in metrics_by_mode.values())]
            for key in names
        ]
    lines: list[list[object]] = [
        [f"ours, {mode}", *(_finite(metrics.get(key)) for key in columns)]
        for mode, metrics in metrics_by_mode.items()
    ]
    first = next(iter(metrics_by_mode), "")
    for row in rows:
        lines.append([f"paper: {row.title}", *(row.metrics.get(key) for key in columns)])
        if row.is_glamm and first:
            pairs = ((_finite(metrics_by_mode[first].get(k)), row.metrics.get(k)) for k in columns)
            differences = (
                None if own is None or published is None else f"{own - published:+.4f}"
                for own, published in pairs
            )
            lines.append([f"  {first} minus paper", *differences])
    return [title, *columns], lines


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
