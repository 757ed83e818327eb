"""The folder of a run, and the lines that tell what happened in it.

config.json          all that the run follows from
metrics.jsonl        one line a step
events.jsonl         one line for each time it was started, resumed, saved, looked at, stopped ...
panels/STEP/         pictures of the look at held-out examples after so many steps
checkpoints/STEP/    see `glamm_jax.training.checkpoint`
"""

from __future__ import annotations

import io
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.config.flat import changed_fields, flatten_config
from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.files import write_atomic
from glamm_jax.weights.config_file import config_from

CONFIG, METRICS, EVENTS = "config.json", "metrics.jsonl", "events.jsonl"
CHECKPOINTS, PANELS = "checkpoints", "panels"
# What a run may change when it goes on: where and how it is computed and watched, not what.
CHANGEABLE_FIELDS = (
    "mesh.",
    "checkpoint.",
    "evaluation.",
    "data.workers",
    "data.prefetch",
    "start.",
)


class RunError(GLaMMError):
    """A run that cannot start or go on. Says why and what to do."""


class RunFolder:
    """A run's folder; only the first process writes into it."""

    def __init__(self, path: Path):
        self.path = path
        self.writes = jax.process_index() == 0
        self._open: dict[str, TextIO] = {}

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.path / CHECKPOINTS

    def claim(self, config: ExperimentConfig) -> None:
        """Make the folder with its config.json; of a run that is there already nothing changes.

        Raises: RunError naming what differs from the run that is there, or that it cannot be made.
        """
        told = self.path / CONFIG
        if told.exists():
            self._check_same(config, told)
            return
        if self.writes and self.path.is_dir() and any(self.path.iterdir()):
            raise RunError(f"{self.path}: holds files, but no run; choose a new folder")
        try:
            self.write_config(config)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be made: {error.strerror}") from error

    def write_config(self, config: ExperimentConfig) -> None:
        """Write config.json: what the run follows from, and where it is computed now."""
        if self.writes:
            write_atomic(self.path / CONFIG, json.dumps(asdict(config), indent=1) + "\n")

    def metrics(self, record: Mapping[str, Any]) -> None:
        """Add a line about a step."""
        self._add(METRICS, record)

    def event(self, name: str, step: int, **facts: Any) -> None:
        """Add a line about something that happened after so many steps."""
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._add(EVENTS, {"event": name, "step": step, "time": now, **facts})

    def panels(self, step: int, pictures: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
        """Keep pictures of held-out examples."""
        for number, pixels in enumerate(pictures if self.writes else ()):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            write_atomic(self.path / PANELS / str(step) / f"{number}.png", stream.getvalue())

    def discard_steps_from(self, step: int) -> None:
        """Forget the lines of steps from this one on: they are done again."""
        path = self.path / METRICS
        if self.writes and path.exists():
            kept = [line for line in read_lines(path) if line["step"] < step]
            write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept))

    def close(self) -> None:
        """Close the files."""
        for file in self._open.values():
            file.close()
        self._open.clear()

    def _add(self, name: str, record: Mapping[str, Any]) -> None:
        if not self.writes:
            return
        if name not in self._open:
            self._open[name] = (self.path / name).open("a", encoding="utf-8")
        self._open[name].write(json.dumps(_finite(record), allow_nan=False) + "\n")
        self._open[name].flush()

    def _check_same(self, config: ExperimentConfig, told: Path) -> None:
        old, new = (
            flatten_config(_read_json(told)),
            flatten_config(json.loads(json.dumps(asdict(config)))),
        )
        differing = [
            f"{name} was {was}, now {now}"
            for name, was, now in changed_fields(old, new, CHANGEABLE_FIELDS)
        ]
        if differing:
            raise RunError(
                f"{self.path}: holds a run with another configuration: {'; '.join(differing)}. "
                "Choose another folder, or give the run its own configuration"
            )


def read_run_config(folder: Path) -> ExperimentConfig:
    """The configuration of a run.

    Raises: ConfigError naming the file when there is none, or it is of another version.
    """
    path = folder / CONFIG
    try:
        return config_from(ExperimentConfig, json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no run's configuration: {error}") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file of JSON lines; the last may have been cut when its run was killed."""
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number + 1 < len(lines):
                raise RunError(f"{path}: line {number + 1} is not JSON") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has no words for."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
