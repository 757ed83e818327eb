"""The HTML page about one training run, or several: curves, events, validation, configuration.

glamm-jax report RUN                    writes RUN/report.html
glamm-jax report RUN OTHER              the curves of several runs in the same plots
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.config.flat import flatten_config
from glamm_jax.json_files import JSONObject, read_object
from glamm_jax.report.curves import Curve
from glamm_jax.report.html_page import Card, Page
from glamm_jax.storage import AnyPath
from glamm_jax.training.goodput import DESCRIPTIONS, read_goodput
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.run_folder import CONFIG, EVENTS, METRICS, PANELS, RunError, read_lines

Record = dict[str, Any]
CURVES = {
    "Loss": "loss",
    "Cross-entropy": "ce",
    "Mask: binary cross-entropy": "bce",
    "Mask: dice": "dice",
    "Learning rate": "learning_rate",
    "Gradient norm": "grad_norm",
    "Seconds per step": "seconds",
    "Seconds waiting for the batch": "input_seconds",
    "Goodput so far": "goodput",
}
MAX_EVENTS = 200


def make_training_page(runs: Sequence[AnyPath]) -> Page:
    """Return the page of one run, or of several with their curves in the same plots.

    Raises:
        RunError: a folder has no metrics.
    """
    records = {_name(run, runs): _read_metrics(run) for run in runs}
    events = {_name(run, runs): _read_events(run / EVENTS) for run in runs}
    page = Page(", ".join(map(str, runs)), "a training run" if len(runs) == 1 else "training runs")
    page.section("Training")
    for name in records:
        if len(runs) > 1:
            page.section(name, level=3)
        _add_summary(page, records[name], events[name])
    for run in runs:
        _add_goodput(page, run, _name(run, runs))
    page.curves(
        {
            title: {name: _curve(lines, key) for name, lines in records.items()}
            for title, key in CURVES.items()
        }
    )
    _add_validation_curves(page, events)
    if len(runs) == 1:
        _add_details(page, runs[0], *records.values(), *events.values())
    return page


def _name(run: AnyPath, runs: Sequence[AnyPath]) -> str:
    """Return the name of a run's folder; its path if two runs have the same name."""
    return run.name if sum(other.name == run.name for other in runs) == 1 else str(run)


def _read_metrics(run: AnyPath) -> list[Record]:
    records = [_checked_step(x, f"{run / METRICS}") for x in _read_if_present(run / METRICS)]
    if not records:
        raise RunError(f"{run / METRICS}: no steps yet, or no run")
    return records


def _read_if_present(path: AnyPath) -> Iterable[Record]:
    return read_lines(path) if path.exists() else ()


def _read_events(path: AnyPath) -> list[Record]:
    events = list(_read_if_present(path))
    for values in events:
        event = JSONObject(values, f"{path}: step {values['step']}")
        event.text("time")
        if event.text("event") == "validated":
            values["scores"] = _numbers(event.object("scores"))
    return events


def _checked_step(values: Record, path: str) -> Record:
    """Check the fields that the page shows; a number that is missing becomes None.

    Raises:
        JSONError: a field has another type.
    """
    record = JSONObject(values, f"{path}: step {values['step']}")
    keys = {*CURVES.values(), *LOSS_NAMES}
    return {
        "step": int(values["step"]),
        **{key: record.number(key, None) for key in keys},
        "seconds": record.number("seconds", 0.0),
        "skipped": record.boolean("skipped", False),
        "images": _numbers(record.object("images", JSONObject({}, ""))),
        "grad_norms": _numbers(record.object("grad_norms", JSONObject({}, ""))),
    }


def _numbers(values: JSONObject) -> dict[str, Any]:
    """Return an object whose fields are numbers; null, a number that is not finite, becomes 0."""
    return {name: values.number(name, 0.0) for name in values}


def _curve(records: Sequence[Record], key: str) -> Curve:
    """Return (step, value) of the steps whose value is finite."""
    return [(record["step"], record[key]) for record in records if record[key] is not None]


def _mean(records: Sequence[Record], key: str) -> float:
    values = [record[key] for record in records if record[key] is not None]
    return float(np.mean(values)) if values else float("nan")


def _add_summary(page: Page, records: Sequence[Record], events: Sequence[Record]) -> None:
    images: Counter[str] = Counter()
    for record in records:
        images.update(record["images"])
    event_counts = Counter(event["event"] for event in events)
    page.facts(
        {
            "steps": records[-1]["step"] + 1,
            "images": images.total(),
            "minutes": round(sum(record["seconds"] for record in records) / 60),
            "saved": event_counts["saved"],
            "resumed": event_counts["resumed_from"],
            "steps skipped": sum(record["skipped"] for record in records),
        }
    )
    window = max(1, min(50, len(records) // 2))
    rows = [
        (key, _mean(records[:window], key), _mean(records[-window:], key))
        for key in (*LOSS_NAMES, "seconds")
    ]
    page.table(("mean of steps", f"first {window}", f"last {window}"), rows)
    total = max(images.total(), 1)
    page.table(
        ("dataset", "share of the images, %"),
        [(name, 100 * count / total) for name, count in images.most_common()],
    )


def _add_goodput(page: Page, run: AnyPath, name: str) -> None:
    """Add a table of what the time of a run was spent on, over all its processes."""
    goodput = read_goodput(run)
    if goodput is None:
        return
    page.section(f"Time of {name}", level=3)
    page.paragraph(goodput.summary())
    rows = [
        (DESCRIPTIONS.get(cause, cause), seconds / 3600, 100 * seconds / goodput.total)
        for cause, seconds in goodput.largest_first()
    ]
    page.table(("spent on", "hours", "share, %"), rows)


def _add_validation_curves(page: Page, events: dict[str, list[Record]]) -> None:
    validations = {
        name: [event for event in run_events if event["event"] == "validated"]
        for name, run_events in events.items()
    }
    metrics = {key for items in validations.values() for x in items for key in x["scores"]}
    if not metrics:
        return
    page.section("Validation")
    page.curves(
        {
            metric: {
                name: [(x["step"], x["scores"][metric]) for x in items if metric in x["scores"]]
                for name, items in validations.items()
            }
            for metric in sorted(metrics)
        }
    )


def _add_details(
    page: Page, run: AnyPath, records: Sequence[Record], events: Sequence[Record]
) -> None:
    """Add what is shown of a single run only."""
    page.section("Gradient norm of each part")
    norms = {
        part: [(x["step"], x["grad_norms"].get(part, 0.0)) for x in records]
        for part in records[0]["grad_norms"]
    }
    page.curves({part: {part: curve} for part, curve in norms.items()})
    folders = [path for path in (run / PANELS).glob("*") if path.name.isdecimal()]
    folders.sort(key=lambda path: int(path.name))
    if folders:
        page.section(f"Validation images after {folders[-1].name} steps")
        panels = [path for path in folders[-1].glob("*.png") if path.stem.isdecimal()]
        panels.sort(key=lambda path: int(path.stem))
        streams = [io.BytesIO(path.read_bytes()) for path in panels]
        page.cards([Card(np.asarray(Image.open(stream).convert("RGB")), ()) for stream in streams])
    page.section("Events")
    rows = [
        (event.pop("time"), event.pop("step"), event.pop("event"), json.dumps(event)[:200])
        for event in map(dict, events[-MAX_EVENTS:])
    ]
    page.table(("time", "step", "", ""), rows)
    page.section("Configuration")
    config = flatten_config(read_object(run / CONFIG).fields)
    page.collapsed(CONFIG, [f"{name} = {json.dumps(value)}" for name, value in config.items()])
