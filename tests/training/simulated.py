"""A simulated machine for the training loop: its clock, devices, data and checkpoints.

The loop is the program's own. What takes time on a real machine takes it on the simulated clock
here, and a failure at any moment of that ends the process as `kill -9` does.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grain
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from glamm_jax.config.experiment import ExperimentConfig, OptimConfig
from glamm_jax.data.input_fill import QuotaFill
from glamm_jax.data.loader import LoadedBatch
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training import loop
from glamm_jax.training.checkpoint import RestoredState
from glamm_jax.training.clock import RunClock
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.prefetch import PreparedBatch
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.training.step import Metrics
from glamm_jax.types import Batch


class Killed(BaseException):
    """The simulated process ends at once."""


class SimulatedClock(RunClock):
    """Passes only by `advance`.

    Args:
        failures: moments at which the process is killed, increasing.
    """

    def __init__(self, failures: tuple[float, ...] = ()):
        self.now = 0.0
        self._failures = [*failures]

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return 1e9 + self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, until the next failure at most.

        Raises:
            Killed: the failure comes first.
        """
        self.advance_to(self.now + seconds)

    def advance_to(self, moment: float) -> None:
        """Let time pass until a moment; as `advance`."""
        if self._failures and self._failures[0] <= moment:
            self.now = max(self._failures.pop(0), self.now)
            raise Killed
        self.now = max(moment, self.now)


@dataclass(frozen=True)
class MachineTimes:
    """Seconds that the parts of a run take.

    Attributes:
        step: on the devices.
        save: that the loop waits for a checkpoint.
        write: until the checkpoint is complete, while the next steps run.
        restart: from the end of a process to the start of the next one.
        start_up: of a process, until the model is initialized.
        restore: of a checkpoint.
        compilation: of the step.
    """

    step: float
    save: float = 0.0
    write: float = 0.0
    restart: float = 0.0
    start_up: float = 0.0
    restore: float = 0.0
    compilation: float = 0.0


@dataclass
class Scalar:
    """A metric that the devices have computed at a moment; reading it waits until then."""

    clock: SimulatedClock
    ready: float
    value: float

    def is_ready(self) -> bool:
        return self.clock.now >= self.ready

    def copy_to_host_async(self) -> None:
        """Do nothing: the value is on the host."""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        self.clock.advance_to(max(self.ready, self.clock.now))
        return np.asarray(self.value, dtype)


class SimulatedBatches(grain.DatasetIterator):
    """Empty batches; their number is the position in the data."""

    def __init__(self) -> None:
        super().__init__()
        self._position = 0

    def __next__(self) -> LoadedBatch:
        self._position += 1
        return LoadedBatch(Batch(*(None,) * 22), (f"simulated {self._position}",))

    def get_state(self) -> dict[str, Any]:
        return {"mixture": [], "shards": {}, "position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        self._position = state["position"]


class SimulatedPrefetcher:
    """Batches that are always ready."""

    def __init__(self, batches: SimulatedBatches, *_: Any):
        self._batches = batches

    def get(self, is_idle: Any) -> tuple[PreparedBatch, float]:
        loaded = next(self._batches)
        state = self._batches.get_state()
        fill = {"tokens": QuotaFill(1, 2)}
        return PreparedBatch(loaded.batch, loaded.names, state, fill=fill), 0.0

    def close(self) -> None:
        """Do nothing: there is no thread."""


class SimulatedMachine:
    """Runs the processes of a run one after another, each until it is killed.

    Attributes:
        clock: of all processes.
        saved: {step: (when it is complete, its content)} of the checkpoints.

    Args:
        times: of its parts.
        failures: moments at which the process is killed.
        skipped: steps whose loss is not finite.
    """

    def __init__(
        self,
        times: MachineTimes,
        failures: Iterable[float] = (),
        skipped: Container[int] = (),
    ):
        self.times, self.clock = times, SimulatedClock(tuple(failures))
        self.saved: dict[int, tuple[float, RestoredState]] = {}
        self._skipped = skipped
        self._ready = 0.0

    def run(self, config: ExperimentConfig, folder: Path, steps: int) -> list[dict[str, Any]]:
        """Run the program's loop, with new processes until one reaches the last step."""
        records = []
        while True:
            try:
                for record in self.steps(config, folder, steps):
                    records.append(record)
                return records
            except Killed:
                self._end_process()

    def steps(self, config: ExperimentConfig, folder: Path, steps: int) -> Iterator[dict[str, Any]]:
        """Run the program's loop in one process."""
        self._ready = self.clock.now
        with self._patched():
            yield from loop.train(config, folder, steps, clock=self.clock)

    def _end_process(self) -> None:
        killed = self.clock.now
        self.saved = {step: item for step, item in self.saved.items() if item[0] <= killed}
        with suppress(Killed):  # nothing is left to be killed
            self.clock.advance(self.times.restart)

    @contextmanager
    def _patched(self) -> Iterator[None]:
        with (
            patch.object(loop, "compile_step", lambda *_: self._compile()),
            patch.object(loop, "open_batches", lambda *_: SimulatedBatches()),
            patch.object(loop, "BatchPrefetcher", SimulatedPrefetcher),
            patch.object(loop, "initial_model", self._initial_model),
            patch.object(loop, "place_split", lambda split: split),
            patch.object(loop, "split_model", lambda model, *_: _split(model)),
            patch.object(loop, "frozen_fingerprint", lambda *_: "of the simulated model"),
            patch.object(loop, "Checkpoints", lambda *_: SimulatedCheckpoints(self)),
        ):
            yield

    def _initial_model(self, config: ExperimentConfig) -> GLaMM:
        self.clock.advance(self.times.start_up)
        return _model(config)

    def _compile(self) -> SimulatedStep:
        self.clock.advance(self.times.compilation)
        return SimulatedStep(self)

    def step(self, state: Any) -> tuple[Any, Metrics]:
        """Start a step on the devices, which run it when those before it have ended."""
        self._ready = max(self._ready, self.clock.now) + self.times.step
        index = int(state.step)
        is_skipped = index in self._skipped

        def scalar(value: float) -> Any:
            return Scalar(self.clock, self._ready, value)

        losses = {name: scalar(math.nan if is_skipped else 1 / (index + 1)) for name in LOSS_NAMES}
        metrics = Metrics(
            **losses,
            grad_norm=scalar(1.0),
            grad_norms={},
            learning_rate=scalar(1e-3),
            skipped=scalar(float(is_skipped)),
        )
        return state._replace(step=jnp.asarray(index + 1)), metrics


@dataclass(frozen=True)
class SimulatedStep:
    """The compiled step of a machine."""

    machine: SimulatedMachine

    def __call__(self, frozen: Any, state: Any, batch: Any) -> tuple[Any, Metrics]:
        return self.machine.step(state)

    def memory_analysis(self) -> None:
        """Return None: what it needs is unknown."""


class SimulatedCheckpoints:
    """Checkpoints in memory, which are written on the clock of a machine."""

    def __init__(self, machine: SimulatedMachine):
        self._machine, self._clock = machine, machine.clock
        self._complete = 0.0  # when the last checkpoint is
        self.last_seconds = machine.times.save + machine.times.write

    @property
    def latest(self) -> int | None:
        return max(self._machine.saved, default=None)

    @property
    def is_saving(self) -> bool:
        return self._clock.now < self._complete

    def check_free_space(self, state: TrainState) -> None:
        """Do nothing: there is space."""

    def save(
        self,
        state: TrainState,
        loader_state: dict[str, Any],
        fingerprint: str,
        scores: Any,
        num_skipped: int,
    ) -> bool:
        step = int(state.step)
        if step == self.latest:
            return False
        self._clock.advance(self._machine.times.save)
        self._complete = self._clock.now + self._machine.times.write
        self._machine.saved[step] = self._complete, RestoredState(state, loader_state, num_skipped)
        return True

    def restore(self, step: int, state: TrainState, fingerprint: str) -> RestoredState:
        self._clock.advance(self._machine.times.restore)
        return self._machine.saved[step][1]

    def wait(self) -> None:
        self._clock.advance_to(max(self._complete, self._clock.now))

    def close(self) -> None:
        """Do nothing: a process that is killed leaves what it has written."""


@cache
def _model(config: ExperimentConfig) -> GLaMM:
    """Return a model that all processes share: nothing changes it."""
    graphdef, state = abstract_model(config.model)
    return nnx.merge(graphdef, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), state))


@cache
def _split(model: GLaMM) -> ModelSplit:
    return split_model(model, trainable_filter("released"), make_optimizer(OptimConfig()))
