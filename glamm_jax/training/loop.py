"""The training loop.

1. The number of steps, the tokenizer and its ids, and the datasets of the mixture are checked.
2. The run's folder is created with its `config.json`. A folder that is a run already is resumed if
   the configuration is the same.
3. The model is initialized on the mesh as `config.init` says, and split into trained and frozen
   parameters.
4. The run resumes from the latest complete checkpoint of its folder, else it starts at step 0. The
   checkpoint has the trained parameters, the optimizer state and the position in the data; the
   lines of later steps are removed from `metrics.jsonl`.
5. Every step: take the batch, which a thread has loaded and placed, start the step, and append the
   line of the step before it to `metrics.jsonl`: the devices always have the next step waiting.
   When due, by steps or by time, run the validation and save a checkpoint, which is written while
   the next steps run; the thread continues to load meanwhile.
6. At the end, after SIGTERM, Ctrl-C or a notice that the machine will be taken, or when the data
   ends with an error (a killed worker process, too many dropped records): save a last checkpoint
   and wait until it is written.

Signs that the run learns nothing are printed and recorded as an event, with the likely cause
(`glamm_jax.training.learning_checks`).

All time since the start of the process has a cause (`glamm_jax.training.goodput`).

What is dropped from the data is printed and recorded as an event: for each dataset and reason, the
first time and whenever the number has grown tenfold.

So what follows from the metrics happens one step late: too many consecutive skipped steps end the
run when the next step has been started, always the same one. A checkpoint, the validation and the
end of the run wait for the step in flight. The position in the data that a checkpoint has is that
of the batches of its steps, not of those that were loaded ahead.

run(N), and run(k) followed by run(N), give bit-identical results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, NamedTuple, Protocol, cast, runtime_checkable

import jax
import numpy as np
from flax import nnx
from jaxtyping import UInt8

from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.data.loader import BatchIterator, DataError, dropped_samples, open_batches
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import bytes_on_device, num_shards, use_mesh, wait_for_processes
from glamm_jax.storage import AnyPath
from glamm_jax.training.checkpoint import Checkpoints, verify_checkpoint
from glamm_jax.training.clock import SYSTEM_CLOCK, RunClock
from glamm_jax.training.fingerprint import frozen_fingerprint
from glamm_jax.training.goodput import RunTimes
from glamm_jax.training.initialization import initial_model
from glamm_jax.training.intervals import Interval
from glamm_jax.training.learning_checks import LearningChecks, LearningProblem
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.maintenance import MaintenanceNotice
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.placement import (
    check_batch_slices,
    make_run_mesh,
    place_split,
    process_slice,
)
from glamm_jax.training.placement_table import (
    Batches,
    RunPlacement,
    fill_shares,
    place_parts,
    step_memory,
)
from glamm_jax.training.prefetch import MAX_PLACED, BatchPrefetcher, PreparedBatch
from glamm_jax.training.profile_window import ProfileWindow
from glamm_jax.training.run_folder import PROFILE, RunError, RunFolder, print_line
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from glamm_jax.training.step import CompiledStep, Metrics, Step, compile_step, make_step
from glamm_jax.training.step_layout import laid_out
from glamm_jax.training.stop_signal import StopSignal, any_process
from glamm_jax.training.stop_time import StopTime
from glamm_jax.training.votes import Votes
from glamm_jax.training.watchdog import Watchdog, print_stacks
from glamm_jax.types import Batch

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
    folder: AnyPath,
    num_steps: int | None = None,
    validate: Validate | None = None,
    metric_writers: Sequence[MetricWriter] = (),
    from_step: int | None = None,
    profile_steps: tuple[int, int] | None = None,
    started: float | None = None,
    clock: RunClock = SYSTEM_CLOCK,
) -> Iterator[StepRecord]:
    """Start or resume a run. A step's record is yielded when the next step has been started.

    A record is a line of `metrics.jsonl`: the step, the losses, the gradient norms (global, and of
    every part), the learning rate, whether the step was skipped, the number of images from each
    dataset, `row_fill`, the share of the positions of all rows that hold a token, `fill`, the share
    of each input quota that is filled (both of this process's part of the batch), and three times:
    `seconds` from the end of the step before to the end of this one, without validation and
    checkpoint; `input_seconds`, the part of it in which the devices waited for a batch;
    `prepare_seconds` of the thread that loaded, stacked and placed the batch. The
    first step compiles. `goodput` is the share of the run's time so far that was spent in steps
    whose result is kept (`glamm_jax.training.goodput`).

    Args:
        config: of the run.
        folder: of the run; it is created or resumed.
        num_steps: stop when so many steps are finished; None: `optim.total_steps`.
        validate: runs every `validation.every` steps.
        metric_writers: receive the records and the validation results.
        from_step: resume from the checkpoint of this step (0: start again); later checkpoints and
            the metrics are moved to the folder's `discarded`. None: from the latest checkpoint.
        profile_steps: first and last step that JAX's profiler traces into the folder's `profile`.
        started: when this process was started, in seconds since the epoch; None: now.
        clock: of the run; a simulation has its own.

    Raises:
        ConfigError: a dataset, the initial model or the configuration cannot be used.
        TokenizerError: the tokenizer cannot be used.
        FolderError: a model folder cannot be read.
        StateError: the batch slices cannot be divided among the processes.
        MeshError: the mesh has another number of devices than there are.
        PlacementError: a batch or the processes do not fit the mesh.
        RunError: `num_steps` is out of range, or the folder is another run; later, a checkpoint
            is damaged or cannot be written, or too many consecutive steps are not finite.
        FolderError: another process trains in the folder.
        DataError: a batch cannot be loaded; with its record. A checkpoint was saved.
    """
    started = clock.wall() if started is None else started
    total = config.optim.total_steps
    num_steps = total if num_steps is None else num_steps
    if not 1 <= num_steps <= total:
        raise RunError(
            f"{num_steps} steps requested, but optim.total_steps = {total}; choose 1 to {total}"
        )
    if profile_steps and profile_steps[1] >= num_steps:
        first, last = profile_steps
        raise RunError(f"steps {first}:{last} cannot be profiled: the last step is {num_steps - 1}")
    mesh = make_run_mesh(config.mesh)
    with use_mesh(mesh):
        config = laid_out(config, num_shards("batch"), folder)
        check_batch_slices(config.data.batch_slices)
        part = process_slice()
    batches = open_batches(config.data, config.model, part.index, part.count)
    run_folder = RunFolder(folder)
    run_folder.claim(config)
    profile = ProfileWindow(profile_steps, folder / PROFILE)
    run = _Run(
        config,
        mesh,
        run_folder,
        batches,
        validate,
        metric_writers,
        profile,
        num_steps,
        started,
        clock,
    )
    return run.records(from_step)


class _StartedStep(NamedTuple):
    """A step whose metrics have not been fetched.

    Attributes:
        index: of the step.
        metrics: on the devices.
        prepared: its batch, without the arrays.
        input_seconds: that the devices waited before it started.
    """

    index: int
    metrics: Metrics
    prepared: PreparedBatch
    input_seconds: float

    @property
    def is_finished(self) -> bool:
        """Whether the devices have finished it."""
        return cast(Any, self.metrics.loss).is_ready()


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
        profile: ProfileWindow,
        num_steps: int,
        started: float,
        clock: RunClock,
    ):
        self.profile, self.num_steps = profile, num_steps
        self.started, self.clock = started, clock
        self.config, self.mesh, self.folder, self.batches = config, mesh, folder, batches
        self.validate = validate
        self.metric_writers = metric_writers if folder.writes else ()
        self.num_skipped = 0  # consecutive steps
        self.losses_since_save: list[dict[str, float]] = []
        self.scores: dict[str, float] = {}  # of the latest validation
        self.saving: tuple[int, dict[str, float]] | None = None  # step and scores of a checkpoint
        self.num_reported: dict[tuple[str, str], int] = {}  # dropped samples by dataset and reason
        self.learning = LearningChecks(config)
        self.stop_time = StopTime(jax.process_count())
        saving, validation = config.checkpoint, config.validation
        self.save_interval = Interval(
            saving.every, saving.keep_every, minutes=saving.every_minutes, clock=clock
        )
        self.validation_interval = Interval(
            validation.every, minutes=validation.every_minutes, clock=clock
        )
        self.in_flight: _StartedStep | None = None

    def records(self, from_step: int | None = None) -> Iterator[StepRecord]:
        """Yield the records of the steps."""
        config = self.config
        with ExitStack() as stack:
            for resource in (self.folder, self.batches, *self.metric_writers, self.profile):
                stack.enter_context(closing(resource))
            stack.enter_context(use_mesh(self.mesh))
            self.stop = stack.enter_context(StopSignal())
            stack.enter_context(MaintenanceNotice(self.stop.request, _print_old_notice))
            self.times = RunTimes(self.folder, self.started, self.clock)
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
            self.times.spent("start_up")
            self.checkpoints = stack.enter_context(
                closing(Checkpoints(self.folder.checkpoints, config.checkpoint))
            )
            split = split._replace(state=self._start_or_resume(split.state))
            step = make_step(config.model, config.optim, config.losses, config.seed)
            if int(split.state.step) < self.num_steps:  # a finished run gets no further time
                self.times.process_started(int(split.state.step))
                loader_state = self.batches.get_state()
                self.watchdog = stack.enter_context(Watchdog(print_stacks))
                self.prefetcher = stack.enter_context(
                    closing(
                        BatchPrefetcher(
                            self.batches, config.optim.accumulation_steps, self.mesh, self.clock
                        )
                    )
                )
                yield from self._steps(split, step, loader_state)

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
        self.times.spent("restore")
        self.batches.set_state(restored.loader_state)
        for dropped in dropped_samples(restored.loader_state):
            self.num_reported[dropped.dataset, dropped.reason] = dropped.count
        self.num_skipped = restored.num_skipped
        num_done = int(restored.state.step)
        self.folder.write_config(self.config)
        records = self.folder.discard_steps_from(num_done)
        self.learning.restore(records)  # as if the run had not been interrupted
        self.stop_time.add_steps(record.get("seconds") for record in records)
        self.stop_time.add_save(self.folder.last_event("saved").get("seconds"))
        self._report_stop_time()
        self.folder.append_event("resumed_from", num_done, **environment)
        return restored.state

    def _steps(
        self,
        split: ModelSplit,
        step: Step,
        loader_state: Mapping[str, Any],
    ) -> Iterator[StepRecord]:
        state, num_done = split.state, int(split.state.step)
        self.times.spent("start_up")
        prepared, wait = self._next_batch()
        with self.times.compilation():
            program = self._compile(step, split, prepared)
        self.save_interval.restart()
        self.validation_interval.restart()
        votes, was_due = Votes(), False
        votes.cast(partial(self._flags, prepared))
        while num_done < self.num_steps:
            is_stopped, is_failed, *is_late = votes.result()
            if was_due:  # they voted before the checkpoint or the validation
                is_late = [False, False]
            if is_stopped or is_failed:
                yield from self._finish_step()
                if num_done:
                    with self._outside_of_steps("checkpoint"):
                        self._save(state, num_done, loader_state)
                        self._wait_for_checkpoint()
                if is_stopped:
                    reason = self.stop.name or "another process received a signal"
                    self.folder.append_event("stopped", num_done, reason=reason)
                    break
                error = prepared.error or DataError(
                    "another process cannot load its part of the batch; see its message"
                )
                self.folder.append_event("failed", num_done, reason=str(error))
                raise error
            # The batch after this one is taken already: all processes must have it, or know that
            # one of them has not, before the step that needs it is started.
            following, more_wait = PreparedBatch(None), 0.0
            if num_done + 1 < self.num_steps:
                following, more_wait = self._next_batch()
                votes.cast(partial(self._flags, following))
            self.profile.step_starts(num_done)
            with jax.profiler.StepTraceAnnotation("train", step_num=num_done):
                batch = cast(
                    Batch, prepared.batch
                )  # there is one, or the vote would have ended this
                state, metrics = cast(CompiledStep, program)(split.frozen, state, batch)
            jax.tree.map(lambda x: x.copy_to_host_async(), metrics)
            started = _StartedStep(
                num_done, metrics, prepared._replace(batch=None), wait + more_wait
            )
            records = self._finish_step(started)
            num_done, loader_state = num_done + 1, prepared.loader_state
            prepared, wait = following, 0.0
            saves = num_done == self.num_steps or self.save_interval.is_due(num_done, is_late[0])
            validates = bool(self.validate) and self.validation_interval.is_due(
                num_done, is_late[1]
            )
            was_due = saves or validates
            if was_due:
                records += self._finish_step()
                if validates:
                    with self._outside_of_steps("validation"):
                        self._validate(split._replace(state=state), num_done)
                if saves:
                    with self._outside_of_steps("checkpoint"):
                        self._save(state, num_done, loader_state)
            elif self.saving and not self.checkpoints.is_saving:
                self._wait_for_checkpoint()
            with self.watchdog.paused():
                yield from records
        with self._outside_of_steps("checkpoint"):
            self._wait_for_checkpoint()
        self.times.record()
        self._report_dropped(loader_state, num_done, growth=1)

    def _compile(
        self, step: Step, split: ModelSplit, prepared: PreparedBatch
    ) -> CompiledStep | None:
        """Compile the step, and show what is placed on each device; None without a batch.

        All processes compile before any of them runs a step: collective operations time out.
        """
        program = None
        if prepared.batch is not None:
            program = compile_step(step, split, prepared.batch)
            batches = Batches(bytes_on_device(prepared.batch), MAX_PLACED, prepared.fill)
            parts, needed = place_parts(split), step_memory(program)
            placement = RunPlacement(self.config, self.mesh, parts, batches, needed)
            print_line(placement.text())
            self.folder.append_event("placed", int(split.state.step), **placement.to_json())
        wait_for_processes()
        return program

    def _next_batch(self) -> tuple[PreparedBatch, float]:
        """Return a prepared batch, and the seconds that idle devices waited for it."""
        in_flight = self.in_flight
        return self.prefetcher.get(lambda: in_flight is None or in_flight.is_finished)

    def _finish_step(self, following: _StartedStep | None = None) -> list[StepRecord]:
        """Wait for the step in flight and write its record.

        Args:
            following: the step that has been started behind it.

        Returns:
            The record; nothing if no step was in flight.
        """
        started, self.in_flight = self.in_flight, following
        if started is None:
            return []
        record = _step_record(started)
        seconds = self.times.step_finished(started.index, started.input_seconds, record["skipped"])
        record |= {
            "seconds": round(seconds, 4),
            "input_seconds": round(started.input_seconds, 4),
            "prepare_seconds": round(started.prepared.seconds, 4),
            "goodput": round(self.times.share, 4),
        }
        self.profile.step_finished(started.index)
        self.stop_time.add_steps([seconds])
        if self.watchdog.step_finished(started.index, seconds):
            self.folder.append_event("slow", started.index, seconds=record["seconds"])
        self._write_step(record, started.prepared.names)
        self._report_dropped(started.prepared.loader_state, started.index + 1)
        return [record]

    @contextmanager
    def _outside_of_steps(self, cause: str) -> Iterator[None]:
        """Attribute the time inside the context to a cause, not to a step."""
        with self.watchdog.paused():
            yield
        self.times.spent(cause)

    def _flags(self, prepared: PreparedBatch) -> tuple[bool, ...]:
        """Return what this process votes for.

        To stop; that it cannot load the next batch; and in process 0, whose clock decides, that it
        is time for a checkpoint or for the validation.
        """
        is_first = jax.process_index() == 0
        # A checkpoint that is due by time does not wait for the one before it.
        saves = self.save_interval.is_late and not self.checkpoints.is_saving
        late = (saves, self.validation_interval.is_late)
        return bool(self.stop.name), prepared.error is not None, *(is_first and x for x in late)

    def _validate(self, split: ModelSplit, num_done: int) -> None:
        """Run the validation, but not after a signal: the machine may be taken in 30 seconds."""
        if self.validate is None or any_process(bool(self.stop.name)):
            return
        model = nnx.merge(split.graphdef, split.state.trainable, split.frozen, copy=True)
        self._write_validation(self.validate(model, num_done), num_done)
        self.validation_interval.restart()

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

    def _write_step(self, record: StepRecord, names: Sequence[str]) -> None:
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
        self.times.record()
        self.folder.before_checkpoint()
        losses = self.losses_since_save
        scores = {"loss": float("inf")}
        for name in losses[0] if losses else ():
            scores[name] = float(np.mean([step_losses[name] for step_losses in losses]))
        scores.update(self.scores)
        if self.checkpoints.save(
            state, loader_state, self.base_fingerprint, scores, self.num_skipped
        ):
            self.saving = num_done, scores
        self.save_interval.restart()
        self.losses_since_save = []

    def _wait_for_checkpoint(self) -> None:
        """Wait until the checkpoint is complete that is being written, and record that it is."""
        self.checkpoints.wait()
        if self.saving:
            num_done, scores = self.saving
            seconds = self.checkpoints.last_seconds
            fields = {} if seconds is None else {"seconds": round(seconds, 2)}
            self.folder.append_event("saved", num_done, scores=scores, **fields)
            self.saving = None
            self.stop_time.add_save(seconds)
            self._report_stop_time()

    def _report_stop_time(self) -> None:
        problem = self.stop_time.problem()
        if problem:
            print_line(problem)


def _print_old_notice(text: str) -> None:
    print_line(
        f"the metadata server announces the end of this machine already ({text}): the run "
        "continues until SIGTERM"
    )


def _step_record(started: _StartedStep) -> StepRecord:
    """Wait for a step and return its metrics and the images of its batch."""
    values = jax.tree.map(float, jax.device_get(started.metrics))._asdict()
    images = Counter(name.split(" ")[0] for name in started.prepared.names)
    return {
        "step": started.index,
        **{name: value for name, value in values.items() if value is not None},
        "skipped": bool(values["skipped"]),
        "images": dict(sorted(images.items())),
        "row_fill": round(started.prepared.fill["tokens"].share, 4),
        "fill": fill_shares(started.prepared.fill),
    }
