"""Print the stacks of all threads when a step takes much longer than the others."""

from __future__ import annotations

import faulthandler
import io
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from glamm_jax.training.run_folder import print_line

FACTOR = 10  # times the median
MIN_STEPS = 5  # finished before there is a limit; the step that compiles is not among them
MIN_SECONDS = 5.0  # below this, the machine's other work decides
WINDOW = 100  # latest steps of the median


class Watchdog:
    """Watches the time between `step_finished()` calls, from a thread of its own.

    with Watchdog(on_slow) as watchdog:
        for step in range(num_steps):
            ...
            watchdog.step_finished(step, seconds)
            with watchdog.paused(): validate()

    Args:
        on_slow: called by the thread, once a step, with its number, the seconds since it started
            and the median.
        factor: times the median of the finished steps.
        min_seconds: lower bound of the limit.
    """

    def __init__(
        self,
        on_slow: Callable[[int, float, float], None],
        factor: float = FACTOR,
        min_seconds: float = MIN_SECONDS,
    ):
        self._on_slow, self._factor, self._min_seconds = on_slow, factor, min_seconds
        self._seconds: deque[float] = deque(maxlen=WINDOW)
        self._step = -1  # the last that is finished
        self._reported = -1  # the last that was slow
        self._median = 0.0
        self._started = 0.0  # of the step that runs
        self._is_first = True
        self._num_pauses = 0
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def step_finished(self, step: int, seconds: float) -> bool:
        """Record the time of a step; the next one starts now.

        Returns:
            Whether the step was reported as slow.
        """
        with self._changed:
            if not self._is_first:  # it compiles
                self._seconds.append(seconds)
                self._median = statistics.median(self._seconds)
            self._is_first = False
            self._step, self._started = step, time.monotonic()
            self._changed.notify()
            return self._reported == step

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not watch inside the context; afterwards the time of the step starts again."""
        with self._changed:
            self._num_pauses += 1
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._num_pauses -= 1
                self._started = time.monotonic()
                self._changed.notify()

    @property
    def limit(self) -> float | None:
        """Seconds that a step may take; None: too few steps are finished."""
        if len(self._seconds) < MIN_STEPS:
            return None
        return max(self._factor * self._median, self._min_seconds)

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                limit, step = self.limit, self._step + 1
                if limit is None or self._num_pauses or step == self._reported:
                    self._changed.wait()
                    continue
                seconds = time.monotonic() - self._started
                if seconds < limit:
                    self._changed.wait(limit - seconds)
                    continue
                self._reported = step
                # Unlocked, so that a step that finishes meanwhile does not wait for the output.
                self._changed.release()
                try:
                    self._on_slow(step, seconds, self._median)
                finally:
                    self._changed.acquire()


def print_stacks(step: int, seconds: float, median: float) -> None:
    """Print on stderr which step is slow, and the stacks of all threads.

    Args:
        step: that is slow.
        seconds: since it started.
        median: of the earlier steps.
    """
    print_line(
        f"step {step} has taken {seconds:.0f} s so far, the median is {median:.2f} s; "
        "the stacks of all threads:"
    )
    sys.stderr.flush()
    try:
        faulthandler.dump_traceback(sys.stderr, all_threads=True)
    except (AttributeError, io.UnsupportedOperation):  # stderr is not a file
        faulthandler.dump_traceback(sys.__stderr__ or 2, all_threads=True)
