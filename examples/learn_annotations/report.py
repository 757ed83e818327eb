"""The scores of the runs, and their comparison with training on the truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from glamm_jax.evaluation.scores import SCORES, load_scores
from glamm_jax.metrics.result import Mode

MODE: Mode = "compat"  # as the paper counts
# Name in the report -> benchmark and name in scores.json. With one mask per item gIoU is the mean.
METRICS = {
    "AP50": ("gcg", "AP50"),
    "mIoU": ("gcg", "mIoU"),
    "CIDEr": ("gcg", "CIDEr"),
    "referring mIoU": ("refseg", "free gIoU"),
}
REFERENCE = "truth"
LARGEST_LOSS = 0.1  # relative to the reference, that the annotation may cost
Scores = Mapping[str, Mapping[str, float]]


def run_scores(folder: Path) -> dict[str, float]:
    """Return the metrics of a run, as fractions."""
    return {
        name: round(load_scores(folder / benchmark / SCORES).modes[MODE].scores[key], 4)
        for name, (benchmark, key) in METRICS.items()
    }


def report_text(scores: Scores) -> str:
    """Return a table in Markdown: the metrics, and their share of those of the truth."""
    lines = [
        "| training | " + " | ".join(METRICS) + " |",
        "|---|" + "---:|" * len(METRICS),
    ]
    for run, values in scores.items():
        cells = []
        for name in METRICS:
            share = values[name] / scores[REFERENCE][name] if scores[REFERENCE][name] else 0.0
            cells.append(f"{values[name]:.3f}" + (f" ({share:.0%})" if run != REFERENCE else ""))
        lines.append(f"| {run} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
