"""Metric writers: TensorBoard and, on request, Weights & Biases.

    writers = [TensorBoard(run / "tensorboard"), WeightsAndBiases("project", run, asdict(config))]
    for record in train(config, run, metric_writers=writers): ...

Both use the same tags: loss/ce, grad_norm/llama, optim/learning_rate, time/seconds, mixture/ade20k,
validation/gcg/mIoU, and panels/0 for the images of the validation.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from etils import epath
from tensorboardX import SummaryWriter

from glamm_jax.errors import ConfigError
from glamm_jax.line_log import FLUSH_SECONDS
from glamm_jax.storage import AnyPath, append
from glamm_jax.training.loop import StepRecord, ValidationResult
from glamm_jax.training.losses import LOSS_NAMES


class Scalars:
    """Scalars of step records by their tag.

    `mixture/DATASET` is the dataset's share of all images since this process started.
    """

    def __init__(self) -> None:
        self._images: Counter[str] = Counter()

    def from_record(self, record: StepRecord) -> dict[str, float]:
        """Count the images of a record and return {tag: value}."""
        self._images.update(record["images"])
        total = max(self._images.total(), 1)
        return {
            **{f"loss/{name}": record[name] for name in (*LOSS_NAMES, "iou") if name in record},
            "optim/learning_rate": record["learning_rate"],
            "optim/skipped": float(record["skipped"]),
            "grad_norm/all": record["grad_norm"],
            **{f"grad_norm/{part}": value for part, value in record["grad_norms"].items()},
            "time/seconds": record["seconds"],
            "time/input_seconds": record["input_seconds"],
            "time/prepare_seconds": record["prepare_seconds"],
            "time/images_per_second": sum(record["images"].values()) / record["seconds"],
            **{f"mixture/{name}": n / total for name, n in sorted(self._images.items())},
        }


class TensorBoard:
    """Writes event files for `tensorboard --logdir`, without tensorflow.

    Those of a bucket are written on this machine; what is new is appended to the bucket every
    minute, after each validation and at the end.
    """

    def __init__(self, folder: AnyPath):
        self._folder, self._scalars = folder, Scalars()
        self._copy = None if isinstance(folder, Path) else _BucketCopy(folder)

    @cached_property
    def _writer(self) -> SummaryWriter:
        local = self._copy.local if self._copy else self._folder
        return SummaryWriter(str(local))  # creates files, so not before the run starts

    def write_step(self, record: StepRecord) -> None:
        """Write the scalars of a step."""
        if self._copy and self._copy.is_due:
            self._update_copy()
        for tag, value in self._scalars.from_record(record).items():
            self._writer.add_scalar(tag, value, record["step"])

    def write_validation(self, step: int, result: ValidationResult) -> None:
        """Write the scores and panels of a validation."""
        for name, value in result.scores.items():
            self._writer.add_scalar(f"validation/{name}", value, step)
        for number, panel in enumerate(result.panels):
            self._writer.add_image(f"panels/{number}", panel, step, dataformats="HWC")
        self._update_copy()

    def close(self) -> None:
        """Flush and close the event files."""
        self._writer.close()
        if self._copy:
            self._copy.close()

    def _update_copy(self) -> None:
        if self._copy:
            self._writer.flush()
            self._copy.update()


class _BucketCopy:
    """The copy of a temporary folder in a bucket; files of it only grow."""

    def __init__(self, folder: epath.Path):
        self._folder = folder
        self._copied: dict[str, int] = {}  # bytes by the name of a file
        self._updated = time.monotonic()

    @cached_property
    def local(self) -> Path:
        """The temporary folder."""
        return Path(tempfile.mkdtemp(prefix="glamm-jax-"))

    @property
    def is_due(self) -> bool:
        """Whether the last update is long ago."""
        return time.monotonic() - self._updated > FLUSH_SECONDS

    def update(self) -> None:
        """Append what is new."""
        for file in sorted(self.local.iterdir()):
            with file.open("rb") as stream:
                stream.seek(self._copied.get(file.name, 0))
                new = stream.read()
            if new:
                append(self._folder / file.name, new)
                self._copied[file.name] = self._copied.get(file.name, 0) + len(new)
        self._updated = time.monotonic()

    def close(self) -> None:
        """Append what is new, and remove the temporary folder."""
        self.update()
        shutil.rmtree(self.local)


class WeightsAndBiases:
    """Logs to Weights & Biases; WANDB_MODE=offline keeps the logs on this machine.

    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(self, project: str, folder: AnyPath, config: Mapping[str, Any]):
        try:
            import wandb  # an extra
        except ImportError as error:
            raise ConfigError(
                "--wandb needs the package wandb: pip install 'glamm-jax[wandb]'"
            ) from error
        self._wandb, self._scalars = wandb, Scalars()
        # The id is the name of the run's folder, so that a resumed run continues its logs.
        local = str(folder) if isinstance(folder, Path) else tempfile.gettempdir()
        self._options = {"project": project, "id": folder.name, "dir": local}
        self._config = dict(config)

    @cached_property
    def _run(self) -> Any:
        return self._wandb.init(**self._options, config=self._config, resume="allow")

    def write_step(self, record: StepRecord) -> None:
        """Log the scalars of a step."""
        self._run.log(self._scalars.from_record(record), step=record["step"])

    def write_validation(self, step: int, result: ValidationResult) -> None:
        """Log the scores and panels of a validation, together with the last finished step."""
        scores = {f"validation/{name}": value for name, value in result.scores.items()}
        panels = {f"panels/{i}": self._wandb.Image(panel) for i, panel in enumerate(result.panels)}
        self._run.log({**scores, **panels}, step=step - 1)

    def close(self) -> None:
        """Finish the run of Weights & Biases."""
        self._run.finish()
