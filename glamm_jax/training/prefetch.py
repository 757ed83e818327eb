"""Load, stack and place the batches of the next steps in a thread while a step runs.

    with closing(BatchPrefetcher(batches, config.optim.accumulation_steps, mesh)) as prefetcher:
        prepared, wait = prefetcher.get(is_idle=lambda: metrics.loss.is_ready())

The thread is at most `BUFFERED` batches ahead of what was taken, besides the one that it works on.
A batch that cannot be loaded is returned in its turn, with the error; the thread then ends.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from jax.sharding import Mesh

from glamm_jax.data.input_fill import InputFill, add_fills
from glamm_jax.data.loader import BatchIterator
from glamm_jax.parallel import use_mesh
from glamm_jax.training.clock import SYSTEM_CLOCK, RunClock
from glamm_jax.training.placement import place_batch
from glamm_jax.training.step import stack_batches
from glamm_jax.types import Batch

BUFFERED = 1  # placed batches that wait to be taken
# On the devices at once: those of the step that runs, of the step that is started behind it, and of
# the one after that; those that wait; and the one that the thread works on.
MAX_PLACED = 3 + BUFFERED + 1
POLL_SECONDS = 0.005  # resolution of the measured wait
CLOSE_SECONDS = 60  # for a thread that is still loading


class PreparedBatch(NamedTuple):
    """The batch of a step.

    Attributes:
        batch: argument of the step, on the devices; None: it could not be loaded.
        names: "source id" of its records.
        loader_state: position in the data behind it.
        seconds: that the thread worked on it.
        error: why it could not be loaded.
        fill: how much of the quotas of this process's part is filled.
    """

    batch: Batch | None
    names: tuple[str, ...] = ()
    loader_state: dict[str, Any] = {}  # noqa: RUF012  # never changed
    seconds: float = 0.0
    error: Exception | None = None
    fill: InputFill = {}  # noqa: RUF012  # never changed


class BatchPrefetcher:
    """Prepares batches in a thread.

    Nothing else may use `batches` until it is closed.

    Args:
        batches: of this process.
        accumulation_steps: batches that a step stacks.
        mesh: where the batches are placed.
        clock: of the run.
    """

    def __init__(
        self,
        batches: BatchIterator,
        accumulation_steps: int,
        mesh: Mesh,
        clock: RunClock = SYSTEM_CLOCK,
    ):
        self._clock = clock
        self._batches, self._accumulation_steps, self._mesh = batches, accumulation_steps, mesh
        self._prepared: queue.Queue[PreparedBatch] = queue.Queue(BUFFERED)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch-prefetch", daemon=True)
        self._thread.start()

    def get(self, is_idle: Callable[[], bool]) -> tuple[PreparedBatch, float]:
        """Take the next batch.

        Args:
            is_idle: whether the devices have finished what they were given.

        Returns:
            The batch, and the seconds that idle devices waited for it.
        """
        idle_since = None
        while True:
            if idle_since is None and is_idle():
                idle_since = self._clock.monotonic()
            try:
                prepared = self._prepared.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            now = self._clock.monotonic()
            return prepared, 0.0 if idle_since is None else now - idle_since

    def close(self) -> None:
        """End the thread. A batch that it is loading is finished first."""
        self._closed.set()
        deadline = time.monotonic() + CLOSE_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            while not self._prepared.empty():
                self._prepared.get()
            self._thread.join(POLL_SECONDS)

    def _run(self) -> None:
        with use_mesh(self._mesh):
            while not self._closed.is_set():
                prepared = self._prepare()
                self._prepared.put(prepared)
                if prepared.error is not None:
                    return

    def _prepare(self) -> PreparedBatch:
        started = self._clock.monotonic()
        try:
            loaded = [next(self._batches) for _ in range(self._accumulation_steps)]
            loader_state = self._batches.get_state()
            batch = stack_batches([item.batch for item in loaded])
            batch = place_batch(batch, stacked=len(loaded) > 1)
        except Exception as error:
            return PreparedBatch(None, error=error)
        names = tuple(name for item in loaded for name in item.names)
        fill = add_fills(item.fill for item in loaded)
        seconds = self._clock.monotonic() - started
        return PreparedBatch(batch, names, loader_state, seconds, fill=fill)
