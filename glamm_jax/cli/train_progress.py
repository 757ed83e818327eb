"""Progress of a training run: a bar on a terminal, or lines in a log."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence

from tqdm import tqdm

from glamm_jax.cli.progress import duration
from glamm_jax.training.loop import StepRecord
from glamm_jax.training.losses import LOSS_NAMES
from glamm_jax.training.run_folder import print_line

SPEED_WINDOW = 20  # steps over which the printed speed is averaged
# Seconds of a step at the devices' peak FLOPS, by how much of each quota of its batch is filled.
PeakStepSeconds = Callable[[Mapping[str, float]], float]
HEARTBEAT_SECONDS = 30.0  # between two lines, where there is no terminal


def show_progress(
    records: Iterable[StepRecord],
    num_steps: int,
    peak_step_seconds: PeakStepSeconds | None = None,
) -> None:
    """Run the steps and show losses, speed and input wait.

    Args:
        records: of the steps, as `train` yields them; consuming them runs the training.
        num_steps: at which the run ends; the bar of a resumed run starts where it resumes.
        peak_step_seconds: time at the devices' peak FLOPS; its share of the time is shown.
    """
    print("initializing the weights and compiling; this takes minutes", flush=True)
    last: deque[StepRecord] = deque(maxlen=SPEED_WINDOW)
    if not sys.stderr.isatty():
        heartbeat = Heartbeat(num_steps, peak_step_seconds)
        for record in records:
            last.append(record)
            heartbeat.step_finished(last)
        return
    with tqdm(total=num_steps, unit="step", mininterval=0.5) as bar:
        for record in records:
            if not last:  # the first step of this process compiles, and may be any step
                bar.initial, bar.n = record["step"], record["step"]
            last.append(record)
            bar.set_postfix_str(progress_line(last, peak_step_seconds), refresh=False)
            bar.update()


class Heartbeat:
    """Prints a line for the first and the last step, and every `HEARTBEAT_SECONDS` between them.

    step 1200/5000  loss 0.512  2.31 s/step  MFU 41%  input 0%  goodput 97.9%  ETA 2 h 26 min

    The remaining time also counts the validations and checkpoints as often as there were any.

    Args:
        num_steps: at which the run ends.
        peak_step_seconds: time at the devices' peak FLOPS; None: unknown, no MFU.
        clock: seconds that pass.
    """

    def __init__(
        self,
        num_steps: int,
        peak_step_seconds: PeakStepSeconds | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._num_steps, self._peak_step_seconds = num_steps, peak_step_seconds
        self._clock = clock
        self._first: tuple[float, int] | None = None  # when which step was finished
        self._printed = 0.0

    def step_finished(self, last: Sequence[StepRecord]) -> None:
        """Print a line if one is due.

        Args:
            last: records of the latest steps.
        """
        now, num_done = self._clock(), last[-1]["step"] + 1
        is_first = self._first is None
        if self._first is None:
            self._first = now, num_done
        if is_first or num_done == self._num_steps or now - self._printed >= HEARTBEAT_SECONDS:
            self._printed = now
            print_line(self._line(last, now, num_done))

    def _line(self, last: Sequence[StepRecord], now: float, num_done: int) -> str:
        seconds, input_share = step_speed(last)
        parts = [f"step {num_done}/{self._num_steps}", f"loss {last[-1]['loss']:.3f}"]
        parts.append(f"{seconds:.2f} s/step")
        if self._peak_step_seconds:
            parts.append(f"MFU {_peak_share(last, self._peak_step_seconds):.0%}")
        parts.append(f"input {input_share:.0%}")
        parts.append(f"goodput {last[-1]['goodput']:.1%}")
        assert self._first is not None
        started, first_done = self._first
        if num_done > first_done:
            per_step = (now - started) / (num_done - first_done)
            parts.append(f"ETA {duration(per_step * (self._num_steps - num_done))}")
        if last[-1]["skipped"]:
            parts.append("SKIPPED")
        return "  ".join(parts)


def step_speed(last: Iterable[StepRecord]) -> tuple[float, float]:
    """Return the mean seconds of a step and the share in which devices waited for batches."""
    timed = _timed(last)
    seconds = sum(record["seconds"] for record in timed)
    return seconds / len(timed), sum(record["input_seconds"] for record in timed) / seconds


def _timed(last: Iterable[StepRecord]) -> list[StepRecord]:
    """Return the records that count; the first of several does not: its step may have compiled."""
    records = [*last]
    return records[1:] or records


def _peak_share(last: Iterable[StepRecord], peak_step_seconds: PeakStepSeconds) -> float:
    """Return the model FLOPS utilization: padding does not count as work."""
    timed = _timed(last)
    needed = sum(peak_step_seconds(record["fill"]) for record in timed)
    return needed / sum(record["seconds"] for record in timed)


def progress_line(
    last: Iterable[StepRecord], peak_step_seconds: PeakStepSeconds | None = None
) -> str:
    """Return the latest losses, and the mean speed without the first step, which compiles."""
    records = [*last]
    losses = " ".join(f"{name} {records[-1][name]:.3f}" for name in LOSS_NAMES)
    seconds, input_share = step_speed(records)
    timed = _timed(records)
    images = sum(sum(record["images"].values()) for record in timed) / len(timed)
    mfu = f"  MFU {_peak_share(records, peak_step_seconds):.0%}" if peak_step_seconds else ""
    skipped = "  SKIPPED" if records[-1]["skipped"] else ""
    return (
        f"{losses}  {images / seconds:.2f} images/s  {seconds:.2f} s/step  "
        f"input {input_share:.0%}{mfu}{skipped}"
    )
