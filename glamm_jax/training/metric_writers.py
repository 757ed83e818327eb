"""Where a run can be watched: TensorBoard, and Weights & Biases when asked for.

    watchers = [TensorBoard(run / "tensorboard"), WeightsAndBiases("project", "run", config)]
    for record in train(config, run, watchers=watchers): ...

Both get the same names: loss/ce, grad_norm/llama, time/seconds, mixture/ade20k, evaluation/miou and
the panels of the look at held-out examples.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from glamm_jax.errors import ConfigError
from glamm_jax.training.loop import LOSS_NAMES, StepRecord, ValidationResult


class Scalars:
    """The numbers of a record under their names; the mixture is counted from the beginning."""

    def __init__(self) -> None:
        self._pictures: Counter[str] = Counter()

    def of(self, record: StepRecord) -> dict[str, float]:
        """{name: value}."""
        self._pictures.update(record["images"])
        total = max(self._pictures.total(), 1)
        return {
            **{f"loss/{name}": record[name] for name in LOSS_NAMES},
            "optim/learning_rate": record["learning_rate"],
            "optim/skipped": float(record["skipped"]),
            "grad_norm/all": record["grad_norm"],
            **{f"grad_norm/{part}": value for part, value in record["grad_norms"].items()},
            "time/seconds": record["seconds"],
            "time/input_seconds": record["input_seconds"],
            "time/images_per_second": sum(record["images"].values()) / record["seconds"],
            **{f"mixture/{name}": n / total for name, n in sorted(self._pictures.items())},
        }


class TensorBoard:
    """Event files in a folder, for `tensorboard --logdir`; needs no tensorflow."""

    def __init__(self, folder: Path):
        self._folder, self._scalars = folder, Scalars()

    @cached_property
    def _writer(self) -> SummaryWriter:
        return SummaryWriter(str(self._folder))  # makes files, so not before the run has begun

    def step(self, record: StepRecord) -> None:
        """Write the numbers of a step."""
        for name, value in self._scalars.of(record).items():
            self._writer.add_scalar(name, value, record["step"])

    def validation(self, step: int, found: ValidationResult) -> None:
        """Write scores and panels."""
        for name, value in found.scores.items():
            self._writer.add_scalar(f"evaluation/{name}", value, step)
        for number, panel in enumerate(found.panels):
            self._writer.add_image(f"panels/{number}", panel, step, dataformats="HWC")

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases; WANDB_MODE=offline keeps it on this machine.

    Raises: ConfigError when wandb is not installed.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]):
        try:
            import wandb  # type: ignore[import-not-found]  # an extra
        except ImportError as error:
            raise ConfigError("--wandb needs the package wandb: pip install wandb") from error
        self._wandb, self._scalars = wandb, Scalars()
        # The folder's name is the run's, so that a resumed one goes on.
        self._options = {"project": project, "id": folder.name, "dir": str(folder)}
        self._config = dict(config)

    @cached_property
    def _run(self) -> Any:
        return self._wandb.init(**self._options, config=self._config, resume="allow")

    def step(self, record: StepRecord) -> None:
        """Send the numbers of a step."""
        self._run.log(self._scalars.of(record), step=record["step"])

    def validation(self, step: int, found: ValidationResult) -> None:
        """Send scores and panels, with those of the step before."""
        scores = {f"evaluation/{name}": value for name, value in found.scores.items()}
        panels = {f"panels/{i}": self._wandb.Image(panel) for i, panel in enumerate(found.panels)}
        self._run.log({**scores, **panels}, step=step - 1)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
