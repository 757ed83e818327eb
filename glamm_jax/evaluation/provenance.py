"""What produced predictions: weights, prompt, sampling, preset; how two evaluations differ in it.

    config = {"weights": "8c1f", "question": "Describe the image.", "sampling": "greedy"}
    assert run_id(config) != run_id(config | {"question": "What is it?"})
    [warning] = provenance_warnings(config, config | {"question": "What is it?"})

Every prediction has the id of what produced it (`Prediction.run`), and config.json has the fields
that the id is a hash of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from glamm_jax.json_files import JSONError, read_object
from glamm_jax.storage import AnyPath

# Field of config.json -> what it is.
PRODUCER_FIELDS: dict[str, str] = {
    "weights": "weights",
    "preset": "preset of the model",
    "dtype": "dtype of the activations",
    "question": "prompt",
    "sampling": "sampling",
    "max_tokens": "maximum length of an answer",
    "seed": "seed of sampled expressions",
}
PRODUCED_BY = "produced_by"  # field of config.json, where predictions were read
ID_LENGTH = 16
MAX_SHOWN = 60  # characters of a value
SAMPLING = "greedy"  # of `glamm_jax.evaluation.predict`


def run_id(config: Mapping[str, Any]) -> str:
    """Return a hash of the fields that determine predictions."""
    fields = {name: config.get(name) for name in PRODUCER_FIELDS}
    return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:ID_LENGTH]


def producer_of(path: AnyPath) -> dict[str, Any]:
    """Return the fields of the evaluation that wrote predictions; empty where it left no config.

    Args:
        path: folder or file of the predictions.
    """
    folder = path if path.is_dir() else path.parent
    for place in (folder, folder.parent):
        try:
            config = read_object(place / "config.json").fields
        except JSONError:
            continue
        return {name: config[name] for name in PRODUCER_FIELDS if name in config}
    return {}


def provenance_warnings(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Return a line for every field in which two evaluations differ, or that one does not record.

    Args:
        a: content of config.json of evaluation A.
        b: that of evaluation B.
    """
    producers = [config.get(PRODUCED_BY) or config for config in (a, b)]
    lines = []
    for name, title in PRODUCER_FIELDS.items():
        values = [producer.get(name) for producer in producers]
        if values[0] == values[1]:
            continue
        shown = ["not recorded" if value is None else _show(value) for value in values]
        lines.append(f"different {title}: A: {shown[0]}; B: {shown[1]}")
    return lines


def several_runs(runs: Iterable[str]) -> bool:
    """Return whether predictions were produced by more than one evaluation."""
    return len({run for run in runs if run}) > 1


def _show(value: Any) -> str:
    text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."
