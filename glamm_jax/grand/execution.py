"""Execution of stages on chunks, the same for all drivers.

    job = Job(run, graph)
    with Session(job) as session:                       # in the driver: locks the folder
        for group, names in enumerate(graph.groups):
            for chunk in session.pending(group):
                ChunkWorker(job).process(group, chunk)  # in any process on any machine

A worker processes one chunk through the stages of a group; between them the sections stay in
memory. An error of one image never affects another: what a batch raises is tried again image by
image, an image with an error once more with another seed, and a batch that does not fit the memory
in halves. What remains is an error in the place of the section. A file that cannot be read is no
error of its content: it has the same seed in every attempt, and the next run tries it again.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.chunks import (
    Outcome,
    OutcomeSections,
    encode_chunk,
    encode_section,
    write_file,
)
from glamm_jax.grand.images import CACHED_BYTES, IMAGE, ImageReader
from glamm_jax.grand.photograph_changes import (
    NO_CHANGES,
    PhotographChanges,
    forget_changed,
    write_stamps,
    write_unread,
)
from glamm_jax.grand.roles import RoleError, RolePlayer, take_usage
from glamm_jax.grand.run_folder import AnnotationRun, StageStatus, count_outcomes
from glamm_jax.grand.stages import (
    REJECTED,
    SKIPPED,
    UNREAD,
    ImageContent,
    ParsedSection,
    Stage,
    StageError,
    StageGraph,
    StageImage,
    UnreadError,
    one_line,
)
from glamm_jax.process_group import ProcessGroup

# Objects that Python makes between two searches for cycles of them: of stages on the CPU more than
# a chunk usually has, since every search visits all of the chunk; the models on an accelerator may
# leave its memory in cycles.
NEW_OBJECTS, NEW_DEVICE_OBJECTS = 2_000_000, 20_000
_MEMORY_MESSAGES = ("resource_exhausted", "out of memory")


class RoleSetupError(GLaMMError):
    """A model cannot be loaded. Names it and says why."""


@dataclass(frozen=True)
class StageProgress:
    """How far a stage of a run is.

    Attributes:
        stage: its name.
        images: finished, those of earlier runs included.
        total: images of the run.
        seconds: since this run began.
        new_images: finished by this run; with `seconds` they give the rate.
    """

    stage: str
    images: int
    total: int
    seconds: float
    new_images: int


OnProgress = Callable[[StageProgress], Any]


@dataclass(frozen=True)
class RunResult:
    """What a run did.

    Attributes:
        stages: the state of every stage at its end.
        computed_chunks: number of chunk files that this run wrote.
        seconds: that it took.
        changes: photographs because of which chunks were computed again.
    """

    stages: tuple[StageStatus, ...]
    computed_chunks: int
    seconds: float
    changes: PhotographChanges = NO_CHANGES

    @property
    def complete(self) -> bool:
        """Whether every stage is finished for all images, if only with errors."""
        return not any(stage.missing for stage in self.stages)

    @property
    def quarantined(self) -> tuple[tuple[str, int], ...]:
        """Stages and chunks that failed several times."""
        return tuple((stage.name, chunk) for stage in self.stages for chunk in stage.quarantined)


@dataclass(frozen=True)
class Job:
    """What workers need to process a chunk; picklable if the stages are.

    Attributes:
        run: the folder.
        graph: the stages.
        max_failures: failures of a chunk in a stage after which it is left out of the run.
        cached_bytes: of pixels that a worker keeps.
    """

    run: AnnotationRun
    graph: StageGraph
    max_failures: int = 3
    cached_bytes: int = CACHED_BYTES

    def quarantine(self, group: int, chunk: int, reason: str) -> None:
        """Write why a chunk cannot be processed, for the first stage that is missing.

        Args:
            group: number of the group of stages.
            chunk: number of the chunk.
            reason: what happened.
        """
        run, graph = self.run, self.graph
        for name in graph.groups[group].names:
            if not run.chunk_path(name, graph.fingerprints[name], chunk).exists():
                path = run.chunk_path(name, graph.fingerprints[name], chunk, "quarantine")
                write_file(path, reason.encode())
                return


@dataclass(frozen=True)
class StageEvent:
    """A chunk file that a worker wrote.

    Attributes:
        stage: name of the stage.
        chunk: its number.
        images: of the chunk.
        seconds: that it took.
    """

    stage: str
    chunk: int
    images: int
    seconds: float


OnEvent = Callable[[StageEvent], Any]


def ignore(event: Any) -> None:
    """Do nothing."""


# ------------------------------------------------------------ in the workers


class ChunkWorker:
    """Processes chunks; one per process."""

    def __init__(self, job: Job, should_stop: Callable[[], bool] = lambda: False):
        """Remember the job; models are loaded with the first chunk that needs them.

        Args:
            job: folder and stages.
            should_stop: called before every stage; the chunk is left there if it returns True.
        """
        self.job = job
        self._should_stop = should_stop
        self._reader = ImageReader(job.run.root, job.cached_bytes)
        self._ready: set[int] = set()
        self._batch_sizes: dict[str, int] = {}

    def set_up(self, group: int) -> None:
        """Load the models of a group of stages.

        Raises:
            RoleSetupError: a role cannot be set up.
        """
        for name in self.job.graph.groups[group].names:
            for role in self.job.graph.stages[name].roles:
                self._set_up_role(role)

    def _set_up_role(self, role: RolePlayer) -> None:
        if id(role) not in self._ready:
            try:
                role.setup()
            except Exception as error:
                raise RoleSetupError(
                    f"the model {role.name} cannot be loaded: {type(error).__name__}: "
                    f"{one_line(error)}"
                ) from error
            self._ready.add(id(role))

    def process(self, group: int, chunk: int, on_event: OnEvent = ignore) -> None:
        """Make the chunk files of a group of stages that do not exist yet.

        A stage that raises several times is left out, with a file in RUN/quarantine, and so are
        the stages that need it.

        Args:
            group: its number in the graph.
            chunk: number of the chunk.
            on_event: called after every file.

        Raises:
            RoleSetupError: a model cannot be loaded.
            RunFolderError: the folder cannot be read or written.
        """
        self.set_up(group)
        run, graph = self.job.run, self.job.graph
        names = graph.groups[group].names
        pending = [
            name
            for name in names
            if not run.chunk_path(name, graph.fingerprints[name], chunk).exists()
        ]
        if not pending:
            return
        state = _ChunkState(self.job, chunk, self._reader)
        if IMAGE in pending:
            write_stamps(run, graph.fingerprints[IMAGE], chunk, state.files)
        self._batch_sizes.clear()  # the images of the last chunk may have been larger
        needs_device = graph.groups[group].needs_device
        with _rare_collections(NEW_DEVICE_OBJECTS if needs_device else NEW_OBJECTS):
            for position, name in enumerate(pending):
                if self._should_stop():
                    return
                if state.load(graph.stages[name].all_inputs):
                    started = time.perf_counter()
                    if self._process_stage(graph.stages[name], state):
                        seconds = time.perf_counter() - started
                        on_event(StageEvent(name, chunk, len(state.ids), seconds))
                state.release(pending[position + 1 :])

    def _process_stage(self, stage: Stage, state: _ChunkState) -> bool:
        """Write the chunk file; returns False if the stage failed too often."""
        fingerprint = self.job.graph.fingerprints[stage.name]
        path = self.job.run.chunk_path(stage.name, fingerprint, state.chunk, "quarantine")
        failures: list[str] = []
        while len(failures) < self.job.max_failures:
            started = time.perf_counter()
            try:
                outcomes = self._outcomes(stage, state)
                content = encode_chunk(state.ids, outcomes)
            except Exception:
                failures.append(traceback.format_exc())
                continue
            state.outcomes[stage.name] = outcomes
            self._write(stage, state, content, time.perf_counter() - started)
            return True
        report = f"failed {len(failures)} times; the last time:\n{failures[-1]}"
        write_file(path, report.encode("utf-8", "backslashreplace"))
        return False

    def _write(self, stage: Stage, state: _ChunkState, content: bytes, seconds: float) -> None:
        name = stage.name
        run, fingerprint = self.job.run, self.job.graph.fingerprints[name]
        outcomes = state.outcomes[name]
        statistics = count_outcomes(outcomes) | {
            "retried": sum(outcome.attempt > 0 for outcome in outcomes),
            "seconds": round(seconds, 6),
            "worker": f"{socket.gethostname()}:{os.getpid()}",
            "time": round(time.time(), 3),
            "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        }
        usage = take_usage(stage.roles)
        if usage:
            statistics["usage"] = usage
        write_unread(
            run, name, fingerprint, state.chunk, dict(zip(state.files, outcomes, strict=True))
        )
        # First, so that a finished chunk always has them, but for a power failure.
        write_file(
            run.chunk_path(name, fingerprint, state.chunk, "statistics"),
            json.dumps(statistics).encode(),
            durable=False,
        )
        write_file(run.chunk_path(name, fingerprint, state.chunk), content)

    def _outcomes(self, stage: Stage, state: _ChunkState) -> list[Outcome]:
        outcomes: list[Outcome | None] = [None] * len(state.ids)
        images: list[StageImage] = []
        places: list[int] = []
        inputs = [(name, state.outcomes[name]) for name in stage.all_inputs]
        for place, content in enumerate(state.contents):
            sections = {name: column[place] for name, column in inputs}
            error = _input_error(stage, sections)
            if error is not None:
                outcomes[place] = Outcome(error=error)
            else:
                places.append(place)
                images.append(StageImage(content, stage.name, OutcomeSections(sections)))
        for place, outcome in zip(places, self._process_images(stage, images), strict=True):
            outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def _process_images(self, stage: Stage, images: Sequence[StageImage]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        start = 0
        while start < len(images):
            size = self._batch_sizes.get(stage.name, stage.images_per_call)
            batch = images[start : start + size]
            outcomes += self._call(stage, batch)
            start += len(batch)
        for place, outcome in enumerate(outcomes):
            if outcome.error is not None and outcome.error.kind not in (REJECTED, UNREAD):
                (outcomes[place],) = self._call(stage, [images[place].next_attempt()])
        return outcomes

    def _call(self, stage: Stage, images: Sequence[StageImage]) -> list[Outcome]:
        """Process a batch; if it fails, its parts or its images, with the same seeds.

        So an image gets the result that it would get in any other batch.
        """
        failure: StageError | None = None
        try:
            results = stage.process(images)
            if not isinstance(results, list | tuple) or len(results) != len(images):
                raise _OutputError(f"{len(images)} results are due, got {_describe(results)}")
        except Exception as error:
            failure, results = _error_of(error), ()
        # Outside of the except block: the exception refers to all that its functions had in memory.
        if failure is not None and len(images) > 1:
            size = (len(images) + 1) // 2 if failure.kind == "memory" else 1
            if size > 1:
                self._batch_sizes[stage.name] = size
            parts = range(0, len(images), size)
            return [item for at in parts for item in self._call(stage, images[at : at + size])]
        if failure is not None:
            return [Outcome(error=failure, attempt=images[0].attempt)]
        outcomes = []
        for image, result in zip(images, results, strict=True):
            outcome = _outcome(result, image, check=image is images[0])
            if outcome.error is not None and outcome.error.kind == "memory" and len(images) > 1:
                (outcome,) = self._call(stage, [image])
            outcomes.append(outcome)
        return outcomes


@contextmanager
def _rare_collections(new_objects: int) -> Iterator[None]:
    """Let Python look for cycles of objects less often: after so many new ones."""
    thresholds = gc.get_threshold()
    gc.set_threshold(max(new_objects, thresholds[0]), *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)


class _OutputError(Exception):
    """A stage returned something that is not a result for each image."""


class _ChunkState:
    """The images of a chunk, and what its stages have made so far."""

    def __init__(self, job: Job, chunk: int, reader: ImageReader):
        self._job, self.chunk = job, chunk
        entries = job.run.images(chunk)
        self.ids = [entry.image_id for entry in entries]
        self.files = [entry.file for entry in entries]
        self.contents = [ImageContent(entry.image_id, entry.file, reader) for entry in entries]
        self.outcomes: dict[str, list[Outcome]] = {}

    def load(self, names: Sequence[str]) -> bool:
        """Read what is not in memory; returns False if the chunk of a stage does not exist."""
        run, fingerprints = self._job.run, self._job.graph.fingerprints
        for name in names:
            if name not in self.outcomes:
                try:
                    chunk = run.outcomes(name, fingerprints[name], self.chunk, self.ids)
                    self.outcomes[name] = list(chunk)
                except FileNotFoundError:
                    return False
        return True

    def release(self, stages: Sequence[str]) -> None:
        """Forget what none of these stages needs."""
        graph = self._job.graph
        needed = {name for stage in stages for name in graph.stages[stage].all_inputs}
        for name in [name for name in self.outcomes if name not in needed]:
            del self.outcomes[name]
            for content in self.contents:
                content.parsed.pop(name, None)


def _outcome(result: Any, image: StageImage, check: bool) -> Outcome:
    """Encode a result; with `check`, compare its parsed form with the section."""
    section = result.section if isinstance(result, ParsedSection) else result
    if isinstance(section, dict) or callable(section):
        try:
            text = encode_section(section) if isinstance(section, dict) else str(section())
            outcome = Outcome(text, attempt=image.attempt)
        except (TypeError, ValueError, RecursionError) as error:
            problem = StageError("output", one_line(f"the section is not JSON: {error}"))
            return Outcome(error=problem, attempt=image.attempt)
        if isinstance(result, ParsedSection):
            if check and result.parser(outcome.section or {}) != result.value:
                problem = StageError("output", "the parsed form of the section is not equal to it")
                return Outcome(error=problem, attempt=image.attempt)
            image.hand_over(result)
        return outcome
    if isinstance(result, RoleError):
        result = StageError(result.kind, result.message)
    if isinstance(result, StageError):
        message = one_line(result.message)
        return Outcome(error=StageError(result.kind, message, result.stage), attempt=image.attempt)
    problem = StageError("output", f"a section is an object, not {_describe(result)}")
    return Outcome(error=problem, attempt=image.attempt)


def _describe(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of {len(value)}"
    return type(value).__name__


def _input_error(stage: Stage, inputs: Mapping[str, Outcome]) -> StageError | None:
    """The error of an image whose inputs have errors; it names the stage that is the cause."""
    for name, outcome in inputs.items():
        error = outcome.error
        if error is not None and (error.kind == REJECTED or name in stage.inputs):
            kind = REJECTED if error.kind == REJECTED else SKIPPED
            return StageError(kind, error.message, error.stage or name)
    return None


def _is_memory_error(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(item in text for item in _MEMORY_MESSAGES)


def _error_of(error: Exception) -> StageError:
    if isinstance(error, _OutputError):
        return StageError("output", one_line(error))
    if isinstance(error, UnreadError):
        return StageError(UNREAD, one_line(error))
    kind = "memory" if _is_memory_error(error) else "model"
    return StageError(kind, one_line(f"{type(error).__name__}: {error}").rstrip(": "))


# ------------------------------------------------------------ in the driver


class Session:
    """A run from the driver's side: holds the folder, says what is missing, counts what is done."""

    def __init__(
        self, job: Job, on_progress: OnProgress = ignore, processes: ProcessGroup | None = None
    ):
        """Remember the job; the folder is locked on entry.

        Args:
            job: folder and stages.
            on_progress: called for every stage at the beginning, and after every chunk file.
            processes: that divide the chunks, on several hosts; all open a session. Process 0 locks
                and prepares the folder. None: only this process.
        """
        self.job = job
        self._processes = processes
        self._index, self._count = (processes.index, processes.count) if processes else (0, 1)
        self._on_progress = on_progress
        self._lock: AbstractContextManager[None] | None = None
        self._images: dict[str, int] = {}
        self._new_images: dict[str, int] = {}
        self._num_finished: dict[str, int] = {}
        self._events = 0
        self._changes = NO_CHANGES
        self._started = time.perf_counter()

    def __enter__(self) -> Session:
        """Lock and prepare the folder.

        Raises:
            FolderError: another run writes it.
            RunFolderError: it cannot be written.
        """
        run, graph = self.job.run, self.job.graph
        self._lock = run.lock() if self._index == 0 else nullcontext()
        self._lock.__enter__()
        try:
            if self._index == 0:
                run.prepare(graph)
                self._changes = forget_changed(run, graph)
                for name, fingerprint in graph.fingerprints.items():
                    for chunk in run.quarantined(name, fingerprint):  # tried again
                        path = run.chunk_path(name, fingerprint, chunk, "quarantine")
                        path.unlink(missing_ok=True)
            if self._processes is not None:
                self._processes.barrier("folder prepared")
            for name, fingerprint in graph.fingerprints.items():
                finished = run.finished(name, fingerprint)
                self._images[name] = sum(self._chunk_images(chunk) for chunk in finished)
                self._new_images[name] = 0
                self._num_finished[name] = len(finished)
                self._report(name)
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.__exit__(None, None, None)

    def pending(self, group: int) -> list[int]:
        """Return the chunks of this process of which a stage of a group is missing, in order."""
        run, graph = self.job.run, self.job.graph
        names = graph.groups[group].names
        finished = set(range(run.num_chunks))
        for name in names:
            finished &= run.finished(name, graph.fingerprints[name])
        own = range(self._index, run.num_chunks, self._count)
        return [chunk for chunk in own if chunk not in finished]

    def all_pending(self) -> list[int]:
        """Return the chunks of which any stage is missing, in order."""
        groups = range(len(self.job.graph.groups))
        return sorted({chunk for group in groups for chunk in self.pending(group)})

    def record(self, event: StageEvent) -> None:
        """Count a chunk file, and report the progress."""
        self._events += 1
        self._num_finished[event.stage] += 1
        self._images[event.stage] += event.images
        self._new_images[event.stage] += event.images
        self._report(event.stage)

    def result(self) -> RunResult:
        """Return what the run did, in all processes when all have processed their chunks."""
        if self._processes is not None:
            self._processes.barrier("chunks processed")
            self.refresh()  # what the others have done
        seconds = time.perf_counter() - self._started
        stages = tuple(self.job.run.status(self.job.graph))
        return RunResult(stages, self._events, seconds, self._changes)

    def refresh(self) -> None:
        """Report the stages whose listing has changed; for drivers whose workers send no events."""
        run, graph = self.job.run, self.job.graph
        for name, fingerprint in graph.fingerprints.items():
            finished = run.finished(name, fingerprint)
            images = sum(self._chunk_images(chunk) for chunk in finished)
            if images != self._images[name]:
                self._events += len(finished) - self._num_finished[name]
                self._num_finished[name] = len(finished)
                self._new_images[name] += images - self._images[name]
                self._images[name] = images
                self._report(name)

    def _report(self, name: str) -> None:
        seconds = time.perf_counter() - self._started
        self._on_progress(
            StageProgress(
                name,
                self._images[name],
                self.job.run.num_images,
                seconds,
                self._new_images[name],
            )
        )

    def _chunk_images(self, chunk: int) -> int:
        run = self.job.run
        return min(run.chunk_size, run.num_images - chunk * run.chunk_size)


@contextmanager
def watch_listing(session: Session, seconds: float = 2.0) -> Iterator[None]:
    """Report progress from the listing of the folder while an engine works.

    Args:
        session: of the run.
        seconds: between two listings.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(seconds):
            session.refresh()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        session.refresh()
