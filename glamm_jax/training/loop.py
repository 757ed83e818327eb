"""The training loop.

1. The number of steps, the tokenizer and its ids, and the datasets of the mixture are checked.
2. The run's folder is created with its `config.json`. A folder that is a run already is resumed if
   the configuration is the same.
3. The model is initialized on the mesh as `config.init` says, and split into trained and frozen
   parameters.
4. The run resumes from the latest complete checkpoint of its folder, else it starts at step 0. The
   checkpoint has the trained parameters, the optimizer state and the position in the data; the
   lines of later steps are removed from `metrics.jsonl`.
5. Every step: load the batch, run the step, append a line to `metrics.jsonl`. When due, by steps or
   by time, run the validation and save a checkpoint, which is written while the next steps run.
6. At the end, after SIGTERM or Ctrl-C, or when the data ends with an error (a killed worker
   process, too many dropped records): save a last checkpoint and wait until it is written.

Signs that the run learns nothing are printed and recorded as an event, with the likely cause
(`glamm_jax.training.learning_checks`).

What is dropped from the data is printed and recorded as an event: for each dataset and reason, the
first time and whenever the number has grown tenfold.

run(N), and run(k) followed by run(N), give bit-identical results.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data.loader import (
    BatchIterator,
    DataError,
    LoadedBatch,
    dropped_samples,
    open_batches,
)
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import make_mesh, use_mesh, wait_for_processes
from glamm_jax.training.checkpoint import Checkpoints, verify_checkpoint
from glamm_jax.training.fingerprint import frozen_fingerprint
from glamm_jax.training.initialization import initial_model
from glamm_jax.training.intervals import Interval
from glamm_jax.training.learning_checks import LearningChecks, LearningProblem
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.placement import place_batch, place_split, process_slice
from glamm_jax.training.run_folder import RunError, RunFolder, print_line
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.training.step import Metrics, Step, make_step, stack_batches
from glamm_jax.training.stop_signal import StopSignal, any_process

StepRecord = dict[str, Any]  # a line of metrics.jsonl


class ValidationResult(NamedTuple):
    """Result of a validation on held-out examples.

    Attributes:
        scores: {metric: value}; higher is better.
        panels: images of the predictions.
    """

    scores: dict[str, float]
    panels: Sequence[UInt8[np.ndarray, "h w 3"]] = ()


# Called with the model and the number of finished steps.
Validate = Callable[[GLaMM, int], ValidationResult]


@runtime_checkable
class MetricWriter(Protocol):
    """Writes the metrics of a run elsewhere; called by the first process only."""

    def write_step(self, record: StepRecord) -> None:
        """Write the record of a step."""
        ...

    def write_validation(self, step: int, result: ValidationResult) -> None:
        """Write the result of the validation after `step` steps."""
        ...

    def close(self) -> None:
        """Finish writing at the end of the run."""
        ...


def train(
    config: ExperimentConfig,
    folder: Path,
    num_steps: int | None = None,
    validate: Validate | None = None,
    metric_writers: Sequence[MetricWriter] = (),
    from_step: int | None = None,
) -> Iterator[StepRecord]:
    """Start or resume a run. Each step runs when its record is requested.

    A record is a line of `metrics.jsonl`: the step, the losses, the gradient norms (global, and of
    every part), the learning rate, whether the step was skipped, the number of images from each
    dataset, and the seconds of the step and of the wait for its batch. The first step compiles.

    Args:
        config: of the run.
        folder: of the run; it is created or resumed.
        num_steps: stop when so many steps are finished; None: `optim.total_steps`.
        validate: runs every `validation.every` steps.
        metric_writers: receive the records and the validation results.
        from_step: resume from the checkpoint of this step (0: start again); later checkpoints and
            the metrics are moved to the folder's `discarded`. None: from the latest checkpoint.

    Raises:
        ConfigError: a dataset, the initial model or the configuration cannot be used.
        TokenizerError: the tokenizer cannot be used.
        FolderError: a model folder cannot be read.
        StateError: the batch slices cannot be divided among the processes.
        PlacementError: a batch or the processes do not fit the mesh.
        RunError: `num_steps` is out of range, or the folder is another run; later, a checkpoint
            is damaged or cannot be written, or too many consecutive steps are not finite.
        FolderError: another process trains in the folder.
        DataError: a batch cannot be loaded; with its record. A checkpoint was saved.
    """
    total = config.optim.total_steps
    num_steps = total if num_steps is None else num_steps
    if not 1 <= num_steps <= total:
        raise RunError(
            f"{num_steps} steps requested, but optim.total_steps = {total}; choose 1 to {total}"
        )
    mesh = _make_mesh(config)
    with use_mesh(mesh):
        part = process_slice()
    batches = open_batches(config.data, config.model, part.index, part.count)
    run_folder = RunFolder(folder)
    run_folder.claim(config)
    run = _Run(config, mesh, run_folder, batches, validate, metric_writers)
    return run.records(num_steps, from_step)


class _Run:
    """A run in progress."""

    def __init__(
        self,
        config: ExperimentConfig,
        mesh: jax.sharding.Mesh,
        folder: RunFolder,
        batches: BatchIterator,
        validate: Validate | None,
        metric_writers: Sequence[MetricWriter],
    ):
        self.config, self.mesh, self.folder, self.batches = config, mesh, folder, batches
        self.validate = validate
        self.metric_writers = metric_writers if folder.writes else ()
        self.num_skipped = 0  # consecutive steps
        self.losses_since_save: list[dict[str, float]] = []
        self.scores: dict[str, float] = {}  # of the latest validation
        self.saving: tuple[int, dict[str, float]] | None = None  # step and scores of a checkpoint
        self.num_reported: dict[tuple[str, str], int] = {}  # dropped samples by dataset and reason
        self.learning = LearningChecks(config)

    def records(self, num_steps: int, from_step: int | None = None) -> Iterator[StepRecord]:
        """Yield the records of the steps."""
        config = self.config
        with ExitStack() as stack:
            for resource in (self.folder, self.batches, *self.metric_writers):
                stack.enter_context(closing(resource))
            stack.enter_context(use_mesh(self.mesh))
            stop = stack.enter_context(StopSignal())
            if from_step is not None:
                self._go_back(from_step)
            model = initial_model(config)
            self.base_fingerprint = frozen_fingerprint(model, config.optim.trainable)
            is_trained = trainable_filter(config.optim.trainable)
            optimizer = make_optimizer(config.optim)
            split = split_model(model, is_trained, optimizer, config.model.compute_dtype)
            split = place_split(split)
            del model
            wait_for_processes()
            self.checkpoints = stack.enter_context(
                closing(Checkpoints(self.folder.checkpoints, config.checkpoint))
            )
            split = split._replace(state=self._start_or_resume(split.state))
            step = make_step(config.model, config.optim, config.losses, config.seed)
            yield from self._steps(split, step, num_steps, stop)

    def _go_back(self, step: int) -> None:
        """Make the checkpoint of a step the latest; what came later is set aside."""
        verify_checkpoint(self.folder.path, step)
        folder = self.folder.set_aside(step)
        if folder:
            print_line(f"continues from step {step}; later checkpoints and metrics: {folder}")
            self.folder.append_event("went_back", step, discarded=str(folder))
        any_process(False)  # all wait for the first process

    def _start_or_resume(self, state: TrainState) -> TrainState:
        """Return the state of the latest checkpoint and move the loader there, or the state."""
        environment = {
            "processes": jax.process_count(),
            "jax": jax.__version__,
            "devices": jax.device_count(),
            "base": self.base_fingerprint,
        }
        latest = self.checkpoints.latest
        if latest is None:
            self.checkpoints.check_free_space(state)
            self.folder.discard_steps_from(0)
            self.folder.append_event("started", 0, **environment)
            return state
        restored = self.checkpoints.restore(latest, state, self.base_fingerprint)
        self.batches.set_state(restored.loader_state)
        for dropped in dropped_samples(restored.loader_state):
            self.num_reported[dropped.dataset, dropped.reason] = dropped.count
        num_done = int(restored.state.step)
        self.folder.write_config(self.config)
        self.folder.discard_steps_from(num_done)
        for record in self.folder.read_metrics():  # as if the run had not been interrupted
            self.learning.after_step(record)
        self.folder.append_event("resumed_from", num_done, **environment)
        return restored.state

    def _steps(
        self, split: ModelSplit, step: Step, num_steps: int, stop: StopSignal
    ) -> Iterator[StepRecord]:
        state, num_done = split.state, int(split.state.step)
        loader_state = self.batches.get_state()
        is_compiled = jax.process_count() == 1  # otherwise before any process runs the step
        checkpoint, validation = self.config.checkpoint, self.config.validation
        saving = Interval(checkpoint.every, checkpoint.keep_every, minutes=checkpoint.every_minutes)
        validating = Interval(validation.every, minutes=validation.every_minutes)
        while num_done < num_steps:
            started = time.perf_counter()
            try:
                loaded = self._load()
            except Exception as error:
                if num_done:
                    self._save(state, num_done, loader_state)
                    self._wait_for_checkpoint()
                self.folder.append_event("failed", num_done, reason=str(error))
                raise
            loader_state = self.batches.get_state()
            input_seconds = time.perf_counter() - started
            batch = stack_batches([item.batch for item in loaded])
            batch = place_batch(batch, stacked=len(loaded) > 1)
            if not is_compiled:
                cast(Any, step).lower(split.graphdef, split.frozen, state, batch).compile()
                wait_for_processes()
                is_compiled = True
            state, metrics = step(split.graphdef, split.frozen, state, batch)
            record = _step_record(num_done, metrics, loaded)
            seconds = time.perf_counter() - started
            record |= {"seconds": round(seconds, 4), "input_seconds": round(input_seconds, 4)}
            num_done += 1
            self._write_step(record, loaded)
            self._report_dropped(loader_state, num_done)
            signal_name = stop.received()
            # After a signal, the checkpoint comes first: the machine may be taken in 30 seconds.
            if self.validate and not signal_name and validating.is_due(num_done):
                result = self.validate(
                    nnx.merge(split.graphdef, state.trainable, split.frozen, copy=True), num_done
                )
                self._write_validation(result, num_done)
                validating.restart()
                signal_name = stop.received()
            if saving.is_due(num_done) or num_done == num_steps or signal_name:
                self._save(state, num_done, loader_state)
                saving.restart()
            elif self.saving and not self.checkpoints.is_saving:
                self._wait_for_checkpoint()
            yield record
            if signal_name:
                self._wait_for_checkpoint()
                self.folder.append_event("stopped", num_done, reason=signal_name)
                break
        self._wait_for_checkpoint()
        self._report_dropped(loader_state, num_done, growth=1)

    def _load(self) -> list[LoadedBatch]:
        """Load the batches of a step.

        Raises:
            DataError: another process cannot load its part; all stop at the same step.
        """
        loaded, error = [], None
        try:
            loaded = [next(self.batches) for _ in range(self.config.optim.accumulation_steps)]
        except Exception as raised:
            error = raised
        any_failed = any_process(error is not None)
        if error is not None:
            raise error
        if any_failed:
            raise DataError("another process cannot load its part of the batch; see its message")
        return loaded

    def _report_dropped(
        self, loader_state: Mapping[str, Any], num_done: int, growth: int = 10
    ) -> None:
        """Print and record how many samples of each dataset were dropped, and why.

        Args:
            loader_state: with the counts.
            num_done: finished steps.
            growth: factor by which a number must have grown since it was reported.
        """
        for dropped in dropped_samples(loader_state):
            key = dropped.dataset, dropped.reason
            num_reported = self.num_reported.get(key, 0)
            if dropped.count == num_reported or dropped.count < growth * num_reported:
                continue
            self.num_reported[key] = dropped.count
            fields = dropped._asdict()
            self.folder.append_event("dropped", num_done, **fields)
            print_line(
                f"{dropped.dataset}: {dropped.count} of {dropped.read} records {dropped.reason} "
                f"({dropped.example})"
            )

    def _write_step(self, record: StepRecord, loaded: Sequence[LoadedBatch]) -> None:
        """Write the record of a step, and an event if the step was skipped.

        Raises:
            RunError: too many consecutive steps were skipped.
        """
        self.folder.append_metrics(record)
        for writer in self.metric_writers:
            writer.write_step(record)
        self._report_learning(self.learning.after_step(record), record["step"] + 1)
        if not record["skipped"]:
            self.num_skipped = 0
            self.losses_since_save.append({x: record[x] for x in LOSS_NAMES if x in record})
            return
        self.num_skipped += 1
        names = [name for item in loaded for name in item.names]
        self.folder.append_event("skipped", record["step"], loss=record["loss"], records=names)
        if self.num_skipped >= self.config.optim.max_skipped_steps:
            raise RunError(
                f"{self.num_skipped} consecutive steps had a loss or gradient that is not finite, "
                f"the last is step {record['step']}. events.jsonl lists their records; lower "
                "optim.peak_lr, or check the data"
            )

    def _write_validation(self, result: ValidationResult, num_done: int) -> None:
        self.scores = result.scores
        self.folder.append_event("validated", num_done, scores=result.scores)
        self.folder.save_panels(num_done, result.panels)
        for writer in self.metric_writers:
            writer.write_validation(num_done, result)
        self._report_learning(self.learning.after_validation(result.scores), num_done)

    def _report_learning(self, problems: Sequence[LearningProblem], num_done: int) -> None:
        for problem in problems:
            self.folder.append_event("not_learning", num_done, **problem._asdict())
            print_line(f"step {num_done}: {problem.message}")

    def _save(self, state: TrainState, num_done: int, loader_state: Mapping[str, Any]) -> None:
        """Start to write a checkpoint."""
        self._wait_for_checkpoint()
        losses = self.losses_since_save
        scores = {"loss": float("inf")}
        for name in losses[0] if losses else ():
            scores[name] = float(np.mean([step_losses[name] for step_losses in losses]))
        scores.update(self.scores)
        if self.checkpoints.save(state, loader_state, self.base_fingerprint, scores):
            self.saving = num_done, scores
        self.losses_since_save = []

    def _wait_for_checkpoint(self) -> None:
        """Wait until the checkpoint is complete that is being written, and record that it is."""
        self.checkpoints.wait()
        if self.saving:
            num_done, scores = self.saving
            self.folder.append_event("saved", num_done, scores=scores)
            self.saving = None


def _make_mesh(config: ExperimentConfig) -> jax.sharding.Mesh:
    """Return the mesh of a run; without a size for `data`, over all devices.

    Raises:
        RunError: the devices cannot be divided in this way.
    """
    mesh = config.mesh
    data, rest = divmod(jax.device_count(), mesh.fsdp * mesh.tensor)
    if not mesh.data and (rest or not data):
        raise RunError(
            f"mesh: {jax.device_count()} devices are not a multiple of fsdp {mesh.fsdp} x tensor "
            f"{mesh.tensor}"
        )
    return make_mesh(mesh.data or data, mesh.fsdp, mesh.tensor)


def _step_record(step: int, metrics: Metrics, loaded: Sequence[LoadedBatch]) -> StepRecord:
    values: Mapping[str, Any] = jax.tree.map(float, metrics)._asdict()
    images = Counter(name.split(" ")[0] for item in loaded for name in item.names)
    return {
        "step": step,
        **{name: value for name, value in values.items() if value is not None},
        "skipped": bool(values["skipped"]),
        "images": dict(sorted(images.items())),
    }
