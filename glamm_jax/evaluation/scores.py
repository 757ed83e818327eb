"""The file of an evaluation's scores: metrics of both modes, and what each item contributes.

    result = MetricResult({"mIoU": 0.663}, {"sa_1": {"mIoU": 0.663}})
    save_scores(Path("scores.json"), RunScores("gcg", "val", {"compat": result}))
    load_scores(Path("scores.json")).modes["compat"].scores["mIoU"]

The file:

    {"benchmark": "gcg", "split": "val", "data_hash": "8c1f...", "similarity": "bert-base-...",
     "counts": {"items": 2500, "predictions": 2500},
     "modes": {"compat": {"mIoU": 0.663, ...}, "strict": {...}},
     "ratios": {"compat": {"recall": ["matches", "phrases"]}, "strict": {...}},
     "notes": {"compat": {"missing prediction": ["sa_7"]}, "strict": {...}},
     "each": {
       "sa_1": {"compat": {"mIoU": 0.71, "matches": 2.0, ...}, "strict": {...}},
       ...}}

"each" has `MetricResult.per_item`. Shares are fractions. A value that is not finite (a mean over
nothing) is null in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.files import write_atomic
from glamm_jax.json_files import JSONError, read_object
from glamm_jax.metrics.result import MODES, MetricResult, Mode
from glamm_jax.storage import AnyPath

SCORES = "scores.json"  # its name in an evaluation's folder


class ScoresError(GLaMMError):
    """A file that does not contain scores."""


@dataclass(frozen=True)
class RunScores:
    """The scores of an evaluation.

    Attributes:
        benchmark: its name.
        split: with the name of the data, as in the paper's tables.
        modes: metrics by mode.
        data_hash: of the items and images; evaluations are comparable if theirs are equal.
        similarity: name of the scorer of phrases.
        counts: of items, predictions, and failed predictions.
    """

    benchmark: str
    split: str
    modes: Mapping[Mode, MetricResult]
    data_hash: str = ""
    similarity: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def save_scores(path: AnyPath, scores: RunScores) -> None:
    """Write the file atomically; one line per item, so that `grep` finds an item."""
    modes = scores.modes
    head = {
        "benchmark": scores.benchmark,
        "split": scores.split,
        "data_hash": scores.data_hash,
        "similarity": scores.similarity,
        "counts": dict(scores.counts),
        "modes": {mode: _to_json(result.scores) for mode, result in modes.items()},
        "ratios": {mode: dict(result.ratios) for mode, result in modes.items()},
        "notes": {mode: dict(result.notes) for mode, result in modes.items()},
    }
    ids = dict.fromkeys(name for result in modes.values() for name in result.per_item)
    lines = []
    for name in ids:
        columns = {
            mode: _to_json(result.per_item[name])
            for mode, result in modes.items()
            if name in result.per_item
        }
        lines.append(f"    {json.dumps(name)}: {json.dumps(columns, allow_nan=False)}")
    top = json.dumps(head, indent=2, allow_nan=False).removesuffix("\n}")
    write_atomic(path, f'{top},\n  "each": {{\n' + ",\n".join(lines) + "\n  }\n}\n")


def load_scores(path: AnyPath) -> RunScores:
    """Read a file that `save_scores` wrote.

    Raises:
        ScoresError: there is no such file, or it does not contain scores.
    """
    try:
        if not path.exists():
            raise ScoresError(f"{path}: no such file; is this the folder of a finished evaluation?")
        content = read_object(path)
        fields = content.fields
        modes: dict[Mode, MetricResult] = {
            mode: _mode_result(fields, mode) for mode in MODES if mode in fields["modes"]
        }
        return RunScores(
            benchmark=content.text("benchmark"),
            split=content.text("split"),
            modes=modes,
            data_hash=content.text("data_hash"),
            similarity=content.text("similarity"),
            counts={name: content.object("counts").integer(name) for name in fields["counts"]},
        )
    except ScoresError:
        raise
    except JSONError as error:
        raise ScoresError(f"{path}: cannot be read: {error}") from error
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ScoresError(f"{path}: not a file of scores: {error!r}") from error


def _mode_result(fields: Mapping[str, Any], mode: Mode) -> MetricResult:
    items = fields["each"].items()
    ratios = fields["ratios"][mode].items()
    return MetricResult(
        scores=_from_json(fields["modes"][mode]),
        per_item={name: _from_json(columns[mode]) for name, columns in items if mode in columns},
        ratios={key: (numerator, denominator) for key, (numerator, denominator) in ratios},
        notes={kind: tuple(names) for kind, names in fields["notes"][mode].items()},
    )


def _to_json(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: float(x) if math.isfinite(x) else None for key, x in values.items()}


def _from_json(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if x is None else float(x) for key, x in values.items()}
