"""One page about a run: how it learned, what happened, and what it saw at held-out examples.

  python -m train.report RUN                    writes RUN/report.html
  python -m train.report RUN --out page.html
  python -m train.report RUN OTHER              the curves of several runs over each other

The page is one file that needs nothing else; it can be made while the run goes on.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.config.flat import flatten_config
from glamm_jax.report.curves import Curve
from glamm_jax.report.html_page import Card, Page
from glamm_jax.training.run_folder import (
    CONFIG,
    EVENTS,
    METRICS,
    PANELS,
    RunError,
    read_lines,
)

Record = dict[str, Any]
DRAWN = {
    "Loss": "loss",
    "Cross-entropy": "ce",
    "Mask: binary cross-entropy": "bce",
    "Mask: dice": "dice",
    "Learning rate": "learning_rate",
    "Norm of the gradient": "grad_norm",
    "Seconds of a step": "seconds",
    "Seconds of it waiting for the batch": "input_seconds",
}
SHOWN_EVENTS = 200


def page_of(runs: Sequence[Path]) -> Page:
    """The page of one run, or of several over each other.

    Raises: RunError when a folder has no metrics.
    """
    metrics = {_name(run, runs): _metrics(run) for run in runs}
    events = {_name(run, runs): list(_lines(run / EVENTS)) for run in runs}
    page = Page(", ".join(map(str, runs)), "a training run" if len(runs) == 1 else "training runs")
    page.section("How it learned")
    for name, lines in metrics.items():
        if len(runs) > 1:
            page.section(name, level=3)
        _tell(page, lines, events[name])
    page.curves(
        {
            title: {n: _curve(lines, key) for n, lines in metrics.items()}
            for title, key in DRAWN.items()
        }
    )
    _looks(page, events)
    if len(runs) == 1:
        [lines], [told] = metrics.values(), events.values()
        parts = list(lines[0]["grad_norms"])
        norms = {part: [(x["step"], x["grad_norms"][part] or 0.0) for x in lines] for part in parts}
        page.section("Norm of the gradient, part by part")
        page.curves({part: {part: curve} for part, curve in norms.items()})
        _panels(page, runs[0])
        _what_happened(page, told)
        page.section("Configuration")
        config = flatten_config(json.loads((runs[0] / CONFIG).read_text(encoding="utf-8")))
        page.folded(CONFIG, [f"{name} = {json.dumps(value)}" for name, value in config.items()])
    return page


def _name(run: Path, runs: Sequence[Path]) -> str:
    """A run's own name; its whole path where two are called the same."""
    return run.name if sum(other.name == run.name for other in runs) == 1 else str(run)


def _metrics(run: Path) -> list[Record]:
    lines = list(_lines(run / METRICS))
    if not lines:
        raise RunError(f"{run / METRICS}: no steps yet, or no run")
    return lines


def _lines(path: Path) -> Iterable[Record]:
    return read_lines(path) if path.exists() else ()


def _curve(lines: Sequence[Record], key: str) -> Curve:
    """A number over the steps; of a step that is not finite there is none."""
    return [(line["step"], line[key]) for line in lines if line[key] is not None]


def _tell(page: Page, lines: Sequence[Record], events: Sequence[Record]) -> None:
    """The run in numbers."""
    pictures: Counter[str] = Counter()
    for line in lines:
        pictures.update(line["images"])
    happened = Counter(event["event"] for event in events)
    page.facts(
        {
            "steps": lines[-1]["step"] + 1,
            "pictures": pictures.total(),
            "minutes": round(sum(line["seconds"] for line in lines) / 60),
            "saved": happened["saved"],
            "resumed": happened["resumed_from"],
            "steps skipped": sum(line["skipped"] for line in lines),
        }
    )
    window = max(1, min(50, len(lines) // 2))
    rows = [
        (key, _mean(lines[:window], key), _mean(lines[-window:], key))
        for key in ("loss", "ce", "bce", "dice", "seconds")
    ]
    page.table(("mean of steps", f"first {window}", f"last {window}"), rows)
    total = max(pictures.total(), 1)
    page.table(
        ("dataset", "share of the pictures, %"),
        [(name, 100 * number / total) for name, number in pictures.most_common()],
    )


def _mean(lines: Sequence[Record], key: str) -> float:
    values = [line[key] for line in lines if line[key] is not None]
    return float(np.mean(values)) if values else float("nan")


def _looks(page: Page, events: dict[str, list[Record]]) -> None:
    """Scores of held-out examples."""
    looks = {
        name: [event for event in told if event["event"] == "evaluated"]
        for name, told in events.items()
    }
    scores = {score for told in looks.values() for event in told for score in event["scores"]}
    if not scores:
        return
    page.section("Held-out examples")
    page.curves(
        {
            score: {
                name: [(x["step"], x["scores"][score]) for x in told if score in x["scores"]]
                for name, told in looks.items()
            }
            for score in sorted(scores)
        }
    )


def _panels(page: Page, run: Path) -> None:
    """The pictures of the last look."""
    folders = sorted((run / PANELS).glob("*"), key=lambda path: int(path.name))
    if folders:
        page.section(f"What it saw after {folders[-1].name} steps")
        pictures = sorted(folders[-1].glob("*.png"), key=lambda path: int(path.stem))
        page.cards([Card(np.asarray(Image.open(path).convert("RGB")), ()) for path in pictures])


def _what_happened(page: Page, events: Sequence[Record]) -> None:
    page.section("What happened")
    rows = [
        (event.pop("time"), event.pop("step"), event.pop("event"), json.dumps(event)[:200])
        for event in map(dict, events[-SHOWN_EVENTS:])
    ]
    page.table(("time", "step", "", ""), rows)
