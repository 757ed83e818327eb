"""Goodput: the share of a run's time that was spent in steps whose result is kept.

The time of a run is that from the start of its first process to its last record, over all its
processes. Everything but steps whose result is kept is lost:

start_up     from the start of a process until the model is initialized
restore      reading and verifying a checkpoint
compilation  the start of the first step of a process, which waits for the compiler
input        the devices waited for a batch
checkpoint   the loop waited for a checkpoint
validation   on held-out examples
skipped      steps whose loss or gradient was not finite
repeated     steps behind the checkpoint from which a later process continued: they ran again
idle         from the last record of a process to the start of the next one; what a killed process
             did since its last record is in it, at most `RECORD_SECONDS` and a step

The first process of the run appends records to RUN/goodput.jsonl:

{"step": 0, "start": 1700000000.0, "time": 1700000041.5, "seconds": {"start_up": 41.5}}
{"step": 9, "first": 0, "time": 1700000065.0, "seconds": {"steps": 20.1, "compilation": 3.3, ...}}

`start` is when a process was started that continued from `step`; `seconds` are those since its
last record (or its start) until `time`, by cause; `steps` are the steps `first` to `step` - 1. The
record of a checkpoint's steps is written before the checkpoint, so that none of them is lost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from glamm_jax.json_files import JSONObject
from glamm_jax.storage import AnyPath
from glamm_jax.training.clock import SYSTEM_CLOCK, RunClock
from glamm_jax.training.run_folder import GOODPUT, RunFolder, read_lines

STEPS = "steps"  # the only time that is not lost
DESCRIPTIONS = {
    STEPS: "steps whose result is kept",
    "start_up": "start of the processes",
    "restore": "reading checkpoints",
    "compilation": "compilation",
    "input": "waiting for batches",
    "checkpoint": "waiting for checkpoints",
    "validation": "validation",
    "skipped": "skipped steps",
    "repeated": "steps that ran again",
    "idle": "between two processes",
}
RECORD_SECONDS = 20.0  # between two records


@dataclass
class Goodput:
    """The time of a run, from all records of its folder.

    Attributes:
        seconds: {cause: seconds}; the causes are those of `DESCRIPTIONS`.
        num_starts: processes, one after another, that have trained.
    """

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DESCRIPTIONS, 0.0))
    num_starts: int = 0
    _last: float | None = None  # time of the last record
    _kept: list[tuple[int, float]] = field(default_factory=list)  # (step, seconds) of records

    @property
    def total(self) -> float:
        """Seconds from the start of the first process to the last record."""
        return sum(self.seconds.values())

    @property
    def share(self) -> float:
        """Share of the steps whose result is kept; 0 without any time."""
        return self.seconds[STEPS] / self.total if self.total else 0.0

    def add(self, record: Mapping[str, Any], where: str = "") -> None:
        """Add a record.

        Args:
            record: a line of goodput.jsonl.
            where: it is, for the error message.

        Raises:
            JSONError: it has other fields.
        """
        values = JSONObject(dict(record), where)
        step, time = values.integer("step", minimum=0), values.number("time")
        start = values.number("start", None)
        if start is not None:
            self.num_starts += 1
            if self._last is not None:
                self.seconds["idle"] += max(start - self._last, 0.0)
            self._repeat_from(step)
        seconds = values.object("seconds")
        for cause in seconds:
            # Causes of other versions are lost time as well.
            self.seconds[cause] = self.seconds.get(cause, 0.0) + seconds.number(cause)
        self._kept.append((step, seconds.number(STEPS, 0.0)))
        self._last = time

    def largest_first(self) -> list[tuple[str, float]]:
        """Return (cause, seconds) of the causes that took any time."""
        spent = [(cause, seconds) for cause, seconds in self.seconds.items() if seconds > 0]
        return sorted(spent, key=lambda item: item[1], reverse=True)

    def summary(self) -> str:
        """Return a line with the share, the time of the run and what was lost."""
        parts = [
            f"{cause} {seconds / self.total:.1%}"
            for cause, seconds in self.largest_first()
            if cause != STEPS
        ]
        starts = "1 start" if self.num_starts == 1 else f"{self.num_starts} starts"
        text = f"goodput {self.share:.1%} of {self.total / 3600:.2f} h, {starts}"
        return f"{text}; lost: {', '.join(parts)}" if parts else text

    def _repeat_from(self, step: int) -> None:
        """Count the steps of earlier records from a step on as repeated."""
        repeated = [seconds for last, seconds in self._kept if last > step]
        self._kept = [(last, seconds) for last, seconds in self._kept if last <= step]
        self.seconds[STEPS] -= sum(repeated)
        self.seconds["repeated"] += sum(repeated)


def read_goodput(run: AnyPath) -> Goodput | None:
    """Return the goodput of a run; None if its folder has no records of it.

    Raises:
        RunError: the file cannot be read.
        JSONError: a record has other fields.
    """
    path = run / GOODPUT
    if not path.exists():
        return None
    result = Goodput()
    for number, record in enumerate(read_lines(path), start=1):
        result.add(record, f"{path}: line {number}")
    return result


class RunTimes:
    """Attributes all time of this process to causes, and records it in the run's folder.

    Args:
        folder: of the run.
        started: when this process was started, in seconds since the epoch.
        clock: of the run.
    """

    def __init__(self, folder: RunFolder, started: float, clock: RunClock = SYSTEM_CLOCK):
        self._folder, self._clock, self._started = folder, clock, started
        self._goodput = (read_goodput(folder.path) if folder.writes else None) or Goodput()
        self._last = clock.monotonic()  # until when all time has a cause
        self._recorded = self._last
        self._first = self._step = 0  # steps since the last record
        self._compilation = 0.0  # of the step that runs
        self._seconds = {"start_up": max(clock.wall() - started, 0.0)}

    @property
    def share(self) -> float:
        """The goodput of the run so far; in other processes than the first, of this process."""
        lost = sum(seconds for cause, seconds in self._seconds.items() if cause != STEPS)
        useful = self._seconds.get(STEPS, 0.0)
        total = self._goodput.total + lost + useful
        return (self._goodput.seconds[STEPS] + useful) / total if total else 0.0

    def spent(self, cause: str) -> None:
        """Attribute the time since the last call, or since the end of a step, to a cause."""
        now = self._clock.monotonic()
        self._add(cause, now - self._last)
        self._last = now

    def process_started(self, num_done: int) -> None:
        """Write the first record of this process, which continues from so many steps."""
        self._first = self._step = num_done
        self._write(start=self._started)

    @contextmanager
    def compilation(self) -> Iterator[None]:
        """Attribute the time inside the context, a part of a step, to the compilation."""
        before = self._clock.monotonic()
        yield
        self._compilation += self._clock.monotonic() - before

    def step_finished(self, step: int, input_seconds: float, is_skipped: bool) -> float:
        """Attribute the time since the end of the step before it to a step.

        Args:
            step: number of the step.
            input_seconds: in which the devices waited for its batch.
            is_skipped: it had no result.

        Returns:
            The seconds.
        """
        now = self._clock.monotonic()
        seconds, self._last, self._step = now - self._last, now, step + 1
        compilation, self._compilation = min(self._compilation, seconds), 0.0
        waited = min(input_seconds, seconds - compilation)
        self._add("compilation", compilation)
        self._add("input", waited)
        self._add("skipped" if is_skipped else STEPS, seconds - compilation - waited)
        if now - self._recorded >= RECORD_SECONDS:
            self.record()
        return seconds

    def record(self) -> None:
        """Write what is not written yet."""
        if any(self._seconds.values()):
            self._write(first=self._first)

    def _add(self, cause: str, seconds: float) -> None:
        self._seconds[cause] = self._seconds.get(cause, 0.0) + seconds

    def _write(self, **fields: float) -> None:
        seconds = {cause: round(x, 3) for cause, x in self._seconds.items() if x}
        now = self._clock.monotonic()
        time = self._clock.wall() - (now - self._last)
        record = {"step": self._step, **fields, "time": round(time, 3)}
        record["seconds"] = seconds
        self._folder.append_goodput(record)
        self._goodput.add(record)
        self._first, self._seconds = self._step, {}
        self._recorded = now
