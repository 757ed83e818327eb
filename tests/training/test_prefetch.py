"""Batches are prepared ahead, in order and in bounds, and errors come with their batch."""

from __future__ import annotations

import threading
import time
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from glamm_jax.data.loader import DataError, LoadedBatch
from glamm_jax.parallel import make_mesh
from glamm_jax.training.prefetch import BUFFERED, BatchPrefetcher, PreparedBatch
from glamm_jax.types import Batch


class NumberedBatches:
    """A loader whose n-th batch has n as its tokens; it fails at `failing`."""

    def __init__(self, failing: int = -1, seconds: float = 0.0):
        self.num_loaded, self.failing, self.seconds = 0, failing, seconds
        self.threads: set[str] = set()

    def __next__(self) -> LoadedBatch:
        time.sleep(self.seconds)
        self.threads.add(threading.current_thread().name)
        if self.num_loaded == self.failing:
            raise DataError(f"record {self.failing} is damaged")
        number = self.num_loaded
        self.num_loaded += 1
        arrays: Any = [np.full((2, 3), number, np.int32)] + [None] * (len(Batch._fields) - 1)
        return LoadedBatch(Batch(*arrays), (f"set {number}",))

    def get_state(self) -> dict[str, int]:
        return {"position": self.num_loaded}


def prefetch(batches: Any, accumulation_steps: int = 1) -> closing[BatchPrefetcher]:
    return closing(BatchPrefetcher(batches, accumulation_steps, make_mesh()))


def take(prefetcher: BatchPrefetcher) -> PreparedBatch:
    return prefetcher.get(lambda: False)[0]


pytestmark = pytest.mark.usefixtures("unchecked")  # the loader is not one of grain


def test_batches_come_in_order_with_the_position_behind_each() -> None:
    batches = NumberedBatches()
    with prefetch(batches, accumulation_steps=2) as prefetcher:
        for number in range(3):
            prepared = take(prefetcher)
            assert prepared.batch is not None
            first, second = 2 * number, 2 * number + 1
            np.testing.assert_array_equal(prepared.batch[0][:, 0, 0], [first, second])
            assert prepared.names == (f"set {first}", f"set {second}")
            assert prepared.loader_state == {"position": second + 1}
    assert batches.threads == {"batch-prefetch"}


def test_the_thread_is_a_bounded_number_of_batches_ahead_and_ends() -> None:
    batches = NumberedBatches()
    with prefetch(batches) as prefetcher:
        take(prefetcher)
        deadline = time.monotonic() + 20
        while batches.num_loaded < 2 + BUFFERED and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert batches.num_loaded == 2 + BUFFERED  # taken, buffered, and in the thread's hands
    assert "batch-prefetch" not in {thread.name for thread in threading.enumerate()}


def test_an_error_comes_after_the_batches_before_it() -> None:
    with prefetch(NumberedBatches(failing=2)) as prefetcher:
        assert [take(prefetcher).names for _ in range(2)] == [("set 0",), ("set 1",)]
        failed = take(prefetcher)
        assert failed.batch is None
        assert str(failed.error) == "record 2 is damaged"


def test_only_the_wait_of_idle_devices_counts() -> None:
    with prefetch(NumberedBatches(seconds=0.2)) as prefetcher:
        assert prefetcher.get(lambda: False)[1] == 0.0
        assert prefetcher.get(lambda: True)[1] > 0.05
