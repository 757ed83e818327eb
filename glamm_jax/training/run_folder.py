"""The folder of a run, and the files that record what happened in it.

config.json          the configuration of the run
metrics.jsonl        one line a step
events.jsonl         started, resumed_from, saved, skipped, validated, stopped
panels/STEP/         images of the validation after so many steps
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

from glamm_jax.config.experiment import ADDED_FIELDS, ExperimentConfig
from glamm_jax.config.flat import changed_fields, flatten_config
from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.files import write_atomic
from glamm_jax.weights.config_file import config_from_json

CONFIG, METRICS, EVENTS = "config.json", "metrics.jsonl", "events.jsonl"
CHECKPOINTS, PANELS = "checkpoints", "panels"
# Fields (or prefixes of them) that a resumed run may change: they do not change what is computed.
# Of `init`, the fingerprint in the checkpoint decides whether the weights are the same.
CHANGEABLE_FIELDS = (
    "mesh.",
    "checkpoint.",
    "validation.",
    "data.workers",
    "data.prefetch",
    "init.",
)


class RunError(GLaMMError):
    """A run cannot start or resume."""


class RunFolder:
    """The folder of a run. Only the first process writes to it."""

    def __init__(self, path: Path):
        self.path = path
        self.writes = jax.process_index() == 0
        self._files: dict[str, TextIO] = {}

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def claim(self, config: ExperimentConfig) -> None:
        """Create the folder with its config.json, or check that it is a run of this configuration.

        Raises:
            RunError: it is a run of another configuration, has other files, or cannot be created.
        """
        path = self.path / CONFIG
        if path.exists():
            self._check_same(config, path)
            return
        if self.writes and self.path.is_dir() and any(self.path.iterdir()):
            raise RunError(f"{self.path}: contains files, but no run; choose a new folder")
        try:
            self.write_config(config)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be created: {error.strerror}") from error

    def write_config(self, config: ExperimentConfig) -> None:
        """Write config.json."""
        if self.writes:
            write_atomic(self.path / CONFIG, json.dumps(asdict(config), indent=1) + "\n")

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append the record of a step to metrics.jsonl."""
        self._append(METRICS, record)

    def append_event(self, name: str, step: int, **fields: Any) -> None:
        """Append an event to events.jsonl.

        Args:
            name: of the event.
            step: number of finished steps.
            fields: of the line, in addition to event, step and time.
        """
        now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        self._append(EVENTS, {"event": name, "step": step, "time": now, **fields})

    def save_panels(self, step: int, panels: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
        """Save images of the validation as PNG files."""
        for number, pixels in enumerate(panels if self.writes else ()):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            write_atomic(self.path / PANELS / str(step) / f"{number}.png", stream.getvalue())

    def discard_steps_from(self, step: int) -> None:
        """Remove the lines of this and later steps from metrics.jsonl: the steps run again."""
        path = self.path / METRICS
        if self.writes and path.exists():
            records = [record for record in read_lines(path) if record["step"] < step]
            write_atomic(path, "".join(json.dumps(record) + "\n" for record in records))

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if not self.writes:
            return
        if name not in self._files:
            self._files[name] = (self.path / name).open("a", encoding="utf-8")
        self._files[name].write(json.dumps(_finite(record), allow_nan=False) + "\n")
        self._files[name].flush()

    def _check_same(self, config: ExperimentConfig, path: Path) -> None:
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read: {error}") from error
        old = {**ADDED_FIELDS, **flatten_config(stored)}
        new = flatten_config(json.loads(json.dumps(asdict(config))))
        changes = [
            f"{name} was {was}, now {now}"
            for name, was, now in changed_fields(old, new, CHANGEABLE_FIELDS)
        ]
        if changes:
            raise RunError(
                f"{self.path}: is a run of another configuration: {'; '.join(changes)}. Choose "
                "another folder, or the configuration of the run"
            )


def read_run_config(folder: Path) -> ExperimentConfig:
    """Read the configuration of a run.

    Raises:
        ConfigError: the folder has no config.json, or one of another version.
    """
    path = folder / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        for name, value in ADDED_FIELDS.items():
            owner, _, field = name.partition(".")
            if isinstance(stored, dict) and isinstance(stored.get(owner), dict):
                stored[owner].setdefault(field, value)
        return config_from_json(ExperimentConfig, stored)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not the configuration of a run: {error}") from error


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read a file of JSON lines. The last line may be truncated, if the run was killed.

    Raises:
        RunError: another line is not JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        try:
            yield json.loads(line)
        except ValueError as error:
            if number + 1 < len(lines):
                raise RunError(f"{path}: line {number + 1} is not JSON") from error


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
