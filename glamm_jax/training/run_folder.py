"""The folder of a run, and the files that record what happened in it.

config.json          the configuration of the run
metrics.jsonl        one line a step
events.jsonl         started, resumed_from, placed, saved, skipped, dropped, validated,
                     not_learning, slow, failed, stopped
goodput.jsonl        what the time was spent on (`glamm_jax.training.goodput`)
panels/STEP/         images of the validation after so many steps
checkpoints/STEP/    see `glamm_jax.training.checkpoint`
profile/             trace of `train(..., profile_steps=(FIRST, LAST))`
discarded/TIME/      checkpoints and metrics that were replaced by `train(..., from_step=STEP)`
logs/process-003.log output of process 3, if there are several (`glamm_jax.cli.processes`)
run.lock             while a process trains in the folder
"""

from __future__ import annotations

import io
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image
from tqdm import tqdm

from glamm_jax.bucket_lock import BucketLock
from glamm_jax.config.experiment import ADDED_FIELDS, ExperimentConfig
from glamm_jax.config.flat import changed_fields, flatten_config
from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.files import FileLock, lock_path, write_atomic
from glamm_jax.json_files import JSONError, JSONObject, decode_text, parse_json, read_json
from glamm_jax.line_log import LineLog, open_log, remove_unfinished_line
from glamm_jax.process_group import LOGS
from glamm_jax.storage import AnyPath, make_folder, move_folder
from glamm_jax.weights.config_file import config_from_json, config_to_json

CONFIG, METRICS, EVENTS = "config.json", "metrics.jsonl", "events.jsonl"
GOODPUT = "goodput.jsonl"
CHECKPOINTS, PANELS, DISCARDED = "checkpoints", "panels", "discarded"
PROFILE = "profile"
LOCK = "run.lock"
COMMITTED = "commit_success.txt"  # in a bucket, orbax writes it last into a checkpoint
# Fields (or prefixes of them) that a resumed run may change: they do not change what is computed.
# Of `init`, the fingerprint in the checkpoint decides whether the weights are the same.
CHANGEABLE_FIELDS = (
    "mesh.",
    "checkpoint.",
    "validation.",
    "data.workers",
    "data.prefetch",
    "data.cache_",
    "data.step_images",  # the three fields that it decides are compared
    "data.max_unreadable",
    "data.max_dropped",
    "init.",
)


class RunError(GLaMMError):
    """A run cannot start or resume."""


def print_line(text: str) -> None:
    """Print a line on stderr, above a progress bar if there is one."""
    tqdm.write(text, file=sys.stderr)


class RunFolder:
    """The folder of a run. Only the first process writes to it."""

    def __init__(self, path: AnyPath):
        self.path = path
        self.writes = jax.process_index() == 0
        self._logs: dict[str, LineLog] = {}
        self._lock: FileLock | BucketLock | None = None

    @property
    def checkpoints(self) -> AnyPath:
        """Folder of the checkpoints."""
        return self.path / CHECKPOINTS

    def claim(self, config: ExperimentConfig) -> None:
        """Create the folder with its config.json, or check that it is a run of this configuration.

        It is locked until `close`, so that no other process trains in it.

        Raises:
            RunError: it is a run of another configuration, has other files, or cannot be created.
            FolderError: another process trains in it.
        """
        path = self.path / CONFIG
        if self.writes:
            self._take_lock()
        try:
            self._create_or_check(config, path)
        except BaseException:
            self.close()
            raise

    def _take_lock(self) -> None:
        is_new = not self.path.exists()
        try:
            make_folder(self.path)
            self._lock = lock_path(self.path / LOCK, str(self.path))
        except OSError as error:
            raise RunError(f"{self.path}: cannot be created: {error.strerror}") from error
        finally:
            if is_new and self._lock is None and self.path.is_dir():
                self.path.rmdir()

    def _create_or_check(self, config: ExperimentConfig, path: AnyPath) -> None:
        if path.exists():
            self._check_same(config, path)
            return
        if self.writes and self.path.is_dir() and self._has_files():
            raise RunError(f"{self.path}: contains files, but no run; choose a new folder")
        try:
            self.write_config(config)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be created: {error.strerror}") from error

    def _has_files(self) -> bool:
        return any(path.name not in (LOCK, LOGS) for path in self.path.iterdir())

    def write_config(self, config: ExperimentConfig) -> None:
        """Write config.json."""
        if self.writes:
            write_atomic(self.path / CONFIG, json.dumps(config_to_json(config), indent=1) + "\n")

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

    def last_event(self, name: str) -> dict[str, Any]:
        """Return the last event of a name; {} without one, and in all but the first process."""
        path = self.path / EVENTS
        events = read_lines(path) if self.writes and path.exists() else ()
        return next((event for event in reversed([*events]) if event.get("event") == name), {})

    def append_goodput(self, record: Mapping[str, Any]) -> None:
        """Append a record to goodput.jsonl."""
        self._append(GOODPUT, record)

    def save_panels(self, step: int, panels: Sequence[UInt8[np.ndarray, "h w 3"]]) -> None:
        """Save images of the validation as PNG files."""
        for number, pixels in enumerate(panels if self.writes else ()):
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG")
            write_atomic(self.path / PANELS / str(step) / f"{number}.png", stream.getvalue())

    def discard_steps_from(self, step: int) -> list[dict[str, Any]]:
        """Remove the lines of this and later steps from metrics.jsonl: the steps run again.

        Returns:
            The records of the earlier steps; none in processes other than the first.
        """
        path = self.path / METRICS
        if not (self.writes and path.exists()):
            return []
        records = [record for record in read_lines(path) if record["step"] < step]
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in records))
        return records

    def set_aside(self, step: int) -> AnyPath | None:
        """Move what came after a step to a new folder below `discarded`.

        Args:
            step: number of steps that are kept, 0 for none.

        Returns:
            The folder, with later checkpoints and a copy of the metrics; None if there is nothing.
        """
        metrics = self.path / METRICS
        later = [x for x in checkpoint_folders(self.checkpoints) if int(x.name) > step]
        has_metrics = metrics.exists() and any(x["step"] >= step for x in read_lines(metrics))
        if not (self.writes and (later or has_metrics)):
            return None
        target = self.path / DISCARDED / time.strftime("%Y%m%dT%H%M%S")
        while target.exists():
            target = target.with_name(target.name + "_")
        make_folder(target)
        if has_metrics:
            write_atomic(target / METRICS, metrics.read_bytes())
        for folder in later:
            move_folder(folder, target / folder.name, COMMITTED)
        return target

    def before_checkpoint(self) -> None:
        """Write all lines that the next checkpoint covers.

        Raises:
            FolderError: another process has taken over the run.
            StorageError: the bucket cannot be written.
        """
        if self._lock is not None:
            self._lock.check()
        for log in self._logs.values():
            log.flush()

    def close(self) -> None:
        """Close the files and release the lock."""
        try:
            for log in self._logs.values():
                log.close()
        finally:
            self._logs.clear()
            if self._lock is not None:
                self._lock.close()
                self._lock = None

    def _append(self, name: str, record: Mapping[str, Any]) -> None:
        if not self.writes:
            return
        if name not in self._logs:
            remove_unfinished_line(self.path / name)
            self._logs[name] = open_log(self.path / name)
        self._logs[name].write(json.dumps(_finite(record), allow_nan=False))

    def _check_same(self, config: ExperimentConfig, path: AnyPath) -> None:
        try:
            stored = _with_added_fields(read_json(path))
        except (OSError, JSONError) as error:
            raise RunError(f"{path}: cannot be read: {error}") from error
        old, new = (
            flatten_config(stored),
            flatten_config(json.loads(json.dumps(config_to_json(config)))),
        )
        changes = [
            f"{name} was {was}, now {now}"
            for name, was, now in changed_fields(old, new, CHANGEABLE_FIELDS)
        ]
        if changes:
            raise RunError(
                f"{self.path}: is a run of another configuration: {'; '.join(changes)}. Choose "
                "another folder, or the configuration of the run"
            )


def read_run_config(folder: AnyPath) -> ExperimentConfig:
    """Read the configuration of a run.

    Raises:
        ConfigError: the folder has no config.json, or one of another version.
    """
    path = folder / CONFIG
    try:
        return config_from_json(ExperimentConfig, _with_added_fields(read_json(path)))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: not the configuration of a run: {error}") from error


def checkpoint_folders(folder: AnyPath) -> list[AnyPath]:
    """Return the folders of complete checkpoints, by increasing step."""
    if not folder.is_dir():
        return []
    paths: list[AnyPath] = [*folder.iterdir()]
    steps = [path for path in paths if path.name.isdecimal() and _is_complete(path)]
    return sorted(steps, key=lambda path: int(path.name))


def _is_complete(checkpoint: AnyPath) -> bool:
    """Tell whether a checkpoint is complete: on a file system it gets its name then."""
    if isinstance(checkpoint, Path):
        return checkpoint.is_dir()
    return (checkpoint / COMMITTED).exists()


def _with_added_fields(config: Any) -> Any:
    """Add the fields that a configuration of an earlier version lacks, with their defaults."""
    if not isinstance(config, dict):
        return config
    config = dict(config)
    for name, value in ADDED_FIELDS.items():
        owner, _, field = name.partition(".")
        if isinstance(config.get(owner), dict):
            config[owner] = {field: value, **config[owner]}
    return config


def read_lines(path: AnyPath) -> Iterator[dict[str, Any]]:
    """Read a file of JSON lines. The last line may be truncated, if the run was killed.

    Raises:
        RunError: another line is not a JSON object with the number of a step.
    """
    try:
        lines = decode_text(path.read_bytes(), str(path)).split("\n")
    except (OSError, JSONError) as error:
        raise RunError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}: line {number}"
        try:
            value = parse_json(line, where)
        except JSONError as error:
            if number < len(lines):
                raise RunError(str(error)) from error
            return
        try:
            record = JSONObject(value, where)
            record.integer("step", minimum=0)
        except JSONError as error:
            raise RunError(str(error)) from error
        yield record.fields


def _finite(value: Any) -> Any:
    """Replace numbers that JSON cannot represent by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
