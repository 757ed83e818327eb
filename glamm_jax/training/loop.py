"""The order of things in a training run.

1. The number of steps, the tokenizer and its ids, and the mixture's datasets are checked.
2. The folder of the run is claimed; its `config.json` says all that the run follows from. A run
   that is there already goes on, if it follows from the same.
3. On the mesh, the model is made as `config.init` says, and split into what is trained and what is
   frozen.
4. What decides where it goes on: the latest whole checkpoint of this folder, else step 0. The
   checkpoint has the trained leaves, the optimizer and the position of the data; `metrics.jsonl`
   forgets the steps behind it.
5. Every step: take the batch, step, one line to `metrics.jsonl`. Then, where they are due: the look
   at held-out examples, and a checkpoint, which is written while the next steps run.
6. At the end, or when SIGTERM or Ctrl-C asks for it: a last checkpoint, waited for.

run(N) and run(k) followed by run(N) are the same to the bit.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data.loader import BatchIterator, LoadedBatch, open_batches
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import make_mesh, use_mesh
from glamm_jax.training.checkpoint import Checkpoints
from glamm_jax.training.initialization import frozen_fingerprint, initial_model
from glamm_jax.training.optimizer import make_optimizer, trainable_filter
from glamm_jax.training.placement import place_batch, place_split, process_slice
from glamm_jax.training.run_folder import RunError, RunFolder
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.training.step import Metrics, Step, make_step, stack_batches
from glamm_jax.training.stop_signal import StopSignal

StepRecord = dict[str, Any]
LOSS_NAMES = ("loss", "ce", "bce", "dice")


class ValidationResult(NamedTuple):
    """What a look at held-out examples says."""

    scores: dict[str, float]  # higher is better
    panels: Sequence[UInt8[np.ndarray, "h w 3"]] = ()  # pictures for people


# Called with the model and the number of steps that it has learned.
Validate = Callable[[GLaMM, int], ValidationResult]


@runtime_checkable
class MetricWriter(Protocol):
    """Is told what happens, by the first process."""

    def step(self, record: StepRecord) -> None:
        """A step is done."""
        ...

    def validation(self, step: int, found: ValidationResult) -> None:
        """Held-out examples were looked at after so many steps."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


def train(
    config: ExperimentConfig,
    folder: Path,
    num_steps: int | None = None,
    evaluate: Validate | None = None,
    watchers: Sequence[MetricWriter] = (),
) -> Iterator[StepRecord]:
    """Run until `num_steps` are done (all, without a number), as the records are asked for.

    A record is a line of `metrics.jsonl`: step, the losses, the norm of the gradient and that of
    each part, the learning rate, whether the step was skipped, pictures of each dataset, and the
    seconds that it took and waited for its batch; the first compiles.

    Raises: before the first record ConfigError, TokenizerError, RunError, FolderError, StateError
    or PlacementError when something does not fit together; with a record DataError from its batch,
    RunError when a checkpoint cannot be written or too many steps in a row are not finite.
    """
    total = config.optim.total_steps
    num_steps = total if num_steps is None else num_steps
    if not 1 <= num_steps <= total:
        raise RunError(f"{num_steps} steps asked for, optim.total_steps = {total}; 1 to {total}")
    mesh = _mesh(config)
    with use_mesh(mesh):
        share = process_slice()
    batches = open_batches(config.data, config.model, share.index, share.count)
    run_folder = RunFolder(folder)
    run_folder.claim(config)
    run = _Run(config, mesh, run_folder, batches, evaluate, watchers)
    return run.records(num_steps)


class _Run:
    """A run that goes on."""

    def __init__(
        self,
        config: ExperimentConfig,
        mesh: jax.sharding.Mesh,
        folder: RunFolder,
        batches: BatchIterator,
        evaluate: Validate | None,
        watchers: Sequence[MetricWriter],
    ):
        self.config, self.mesh, self.folder, self.batches = config, mesh, folder, batches
        self.evaluate = evaluate
        self.watchers = watchers if folder.writes else ()
        self.skipped = 0  # steps in a row
        self.since_save: list[float] = []
        self.scores: dict[str, float] = {}

    def records(self, num_steps: int) -> Iterator[StepRecord]:
        """What `train` yields."""
        config = self.config
        with ExitStack() as stack:
            for each in (self.folder, self.batches, *self.watchers):
                stack.enter_context(closing(each))
            stack.enter_context(use_mesh(self.mesh))
            stop = stack.enter_context(StopSignal())
            model = initial_model(config)
            self.base = frozen_fingerprint(model, config.optim.trainable)
            optimizer, trained = (
                make_optimizer(config.optim),
                trainable_filter(config.optim.trainable),
            )
            split = place_split(split_model(model, trained, optimizer, config.model.compute_dtype))
            del model
            self.checkpoints = stack.enter_context(
                closing(Checkpoints(self.folder.checkpoints, config.checkpoint))
            )
            split = split._replace(state=self._resumed(split.state))
            step = make_step(config.model, config.optim, config.losses, config.seed)
            yield from self._steps(split, step, num_steps, stop)

    def _resumed(self, state: TrainState) -> TrainState:
        """The state of the latest checkpoint, the data at its place; or as it is."""
        facts = {"jax": jax.__version__, "devices": jax.device_count(), "base": self.base}
        latest = self.checkpoints.latest
        if latest is None:
            self.checkpoints.check_room(state)
            self.folder.discard_steps_from(0)
            self.folder.event("started", 0, processes=jax.process_count(), **facts)
            return state
        restored = self.checkpoints.restore(latest, state, self.base)
        self.batches.set_state(restored.data)
        done = int(restored.state.step)
        self.folder.write_config(self.config)
        self.folder.discard_steps_from(done)
        self.folder.event("resumed_from", done, processes=jax.process_count(), **facts)
        return restored.state

    def _steps(
        self, split: ModelSplit, step: Step, num_steps: int, stop: StopSignal
    ) -> Iterator[StepRecord]:
        state, done = split.state, int(split.state.step)
        every = self.config.checkpoint.every
        while done < num_steps:
            began = time.perf_counter()
            drawn = [next(self.batches) for _ in range(self.config.optim.accumulation_steps)]
            waited = time.perf_counter() - began
            batch = stack_batches([each.batch for each in drawn])
            batch = place_batch(batch, stacked=len(drawn) > 1)
            state, metrics = step(split.graphdef, split.frozen, state, batch)
            record = _record(done, metrics, drawn)
            seconds = time.perf_counter() - began
            record |= {"seconds": round(seconds, 4), "input_seconds": round(waited, 4)}
            done += 1
            self._tell(record, drawn)
            self._look(split, state, done)
            asked = stop.received(done)
            if done % every == 0 or done == num_steps or asked:
                self._save(state, done)
            yield record
            if asked:
                self.folder.event("stopped", done, reason=asked)
                break
        self.checkpoints.wait()

    def _tell(self, record: StepRecord, drawn: Sequence[LoadedBatch]) -> None:
        """Write the line; count and name a step that was skipped."""
        self.folder.metrics(record)
        for watcher in self.watchers:
            watcher.step(record)
        if not record["skipped"]:
            self.skipped = 0
            self.since_save.append(record["loss"])
            return
        self.skipped += 1
        records = [name for each in drawn for name in each.names]
        self.folder.event("skipped", record["step"], loss=record["loss"], records=records)
        if self.skipped >= self.config.optim.max_skipped_steps:
            raise RunError(
                f"{self.skipped} steps in a row had a loss or gradient that is not finite, the "
                f"last is step {record['step']}. events.jsonl names their records; a lower "
                "optim.peak_lr, or a look at the data, may help"
            )

    def _look(self, split: ModelSplit, state: TrainState, done: int) -> None:
        """Evaluate, when it is due."""
        every = self.config.validation.every
        if self.evaluate is None or not every or done % every:
            return
        model = nnx.merge(split.graphdef, state.trainable, split.frozen, copy=True)
        found = self.evaluate(model, done)
        self.scores = found.scores
        self.folder.event("evaluated", done, scores=found.scores)
        self.folder.panels(done, found.panels)
        for watcher in self.watchers:
            watcher.validation(done, found)

    def _save(self, state: TrainState, done: int) -> None:
        """Begin to write a checkpoint."""
        mean = float(np.mean(self.since_save)) if self.since_save else float("inf")
        scores = {"loss": mean, **self.scores}
        if self.checkpoints.save(state, self.batches.get_state(), self.base, scores):
            self.folder.event("saved", done, scores=scores)
        self.since_save = []


def _mesh(config: ExperimentConfig) -> jax.sharding.Mesh:
    """The mesh of a run; without a number for `data`, over all devices.

    Raises: RunError when the devices cannot be divided so.
    """
    mesh = config.mesh
    rest, left = divmod(jax.device_count(), mesh.fsdp * mesh.tensor)
    if not mesh.data and (left or not rest):
        raise RunError(
            f"mesh: {jax.device_count()} devices are not a multiple of fsdp {mesh.fsdp} x tensor "
            f"{mesh.tensor}"
        )
    return make_mesh(mesh.data or rest, mesh.fsdp, mesh.tensor)


def _record(number: int, metrics: Metrics, drawn: Sequence[LoadedBatch]) -> StepRecord:
    """A step in numbers."""
    values: Mapping[str, Any] = jax.tree.map(float, metrics)._asdict()
    sources = Counter(name.split(" ")[0] for each in drawn for name in each.names)
    return {
        "step": number,
        **values,
        "skipped": bool(values["skipped"]),
        "images": dict(sorted(sources.items())),
    }
