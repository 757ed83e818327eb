"""The file of a run's scores: figures of both modes, and what every item contributes to them.

    scores = RunScores("gcg", "val", {"compat": scored, "strict": other}, data_hash="8c1f...")
    save_scores(out / "scores.json", scores)
    load_scores(out / "scores.json").modes["compat"].scores["mIoU"]

    {"benchmark": "gcg", "split": "val", "data_hash": "8c1f...", "similarity": "bert-base-...",
     "counts": {"items": 2500, "predictions": 2500},
     "modes": {"compat": {"mIoU": 0.663, ...}, "strict": {...}},
     "ratios": {"compat": {"recall": ["matches", "phrases"]}, "strict": {...}},
     "notes": {"compat": {"missing prediction": ["sa_7"]}, "strict": {...}},
     "each": {
       "sa_1": {"compat": {"mIoU": 0.71, "matches": 2.0, ...}, "strict": {...}},
       ...}}

Shares are fractions. What is not a number (a mean of nothing) is null in the file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.files import write_atomic
from glamm_jax.metrics.result import MODES, MetricResult, Mode

SCORES = "scores.json"  # its name in the folder of a run


class ScoresError(GLaMMError):
    """A file holds no scores. Names it and says why."""


@dataclass(frozen=True)
class RunScores:
    """What a run scored.

    data_hash: of the items, pictures and truths that were asked; runs are comparable where it is
        the same. similarity: the judge of texts, as it names itself. counts: how many of what.
    """

    benchmark: str
    split: str
    modes: Mapping[Mode, MetricResult]
    data_hash: str = ""
    similarity: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)


def save_scores(path: Path, scores: RunScores) -> None:
    """Write the file, all or nothing; one line an item, so that `grep` finds it."""
    modes = scores.modes
    head = {
        "benchmark": scores.benchmark,
        "split": scores.split,
        "data_hash": scores.data_hash,
        "similarity": scores.similarity,
        "counts": dict(scores.counts),
        "modes": {mode: _plain(scored.scores) for mode, scored in modes.items()},
        "ratios": {mode: dict(scored.ratios) for mode, scored in modes.items()},
        "notes": {mode: dict(scored.notes) for mode, scored in modes.items()},
    }
    ids = dict.fromkeys(name for scored in modes.values() for name in scored.per_item)
    lines = []
    for name in ids:
        own = {mode: x.per_item[name] for mode, x in modes.items() if name in x.per_item}
        columns = {mode: _plain(values) for mode, values in own.items()}
        lines.append(f"    {json.dumps(name)}: {json.dumps(columns, allow_nan=False)}")
    top = json.dumps(head, indent=2, allow_nan=False).removesuffix("\n}")
    write_atomic(path, f'{top},\n  "each": {{\n' + ",\n".join(lines) + "\n  }\n}\n")


def load_scores(path: Path) -> RunScores:
    """Read what `save_scores` wrote.

    Raises: ScoresError when there is no such file or it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        modes: dict[Mode, MetricResult] = {
            mode: _scored(found, mode) for mode in MODES if mode in found["modes"]
        }
        return RunScores(
            benchmark=found["benchmark"],
            split=found["split"],
            modes=modes,
            data_hash=found["data_hash"],
            similarity=found["similarity"],
            counts=found["counts"],
        )
    except FileNotFoundError as error:
        raise ScoresError(f"{path}: no such file; is this the folder of a scored run?") from error
    except (OSError, ValueError) as error:
        raise ScoresError(f"{path}: cannot be read: {error}") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ScoresError(f"{path}: not a file of scores: {error!r}") from error


def _scored(found: Mapping[str, Any], mode: Mode) -> MetricResult:
    each = found["each"].items()
    return MetricResult(
        scores=_numbers(found["modes"][mode]),
        per_item={name: _numbers(columns[mode]) for name, columns in each if mode in columns},
        ratios={key: (above, below) for key, (above, below) in found["ratios"][mode].items()},
        notes={kind: tuple(names) for kind, names in found["notes"][mode].items()},
    )


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: float(x) if math.isfinite(x) else None for key, x in values.items()}


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {key: math.nan if x is None else float(x) for key, x in values.items()}
