"""Application of a function to the shards of a dataset, in several processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import get_context, parent_process
from typing import Any

from glamm_jax.data.split_folder import ConversionError

# Takes the index of a shard and a callback for every key; it must be picklable.
ShardFunction = Callable[[int, Callable[[], None]], Any]

POLL_SECONDS = 0.2


def map_shards(
    function: ShardFunction,
    indices: list[int],
    processes: int,
    on_keys: Callable[[int], Any],
) -> Iterator[Any]:
    """Apply a function to shards, and yield its results in any order.

    Args:
        function: takes the index of a shard, and a callback that it calls after every key.
        indices: of the shards.
        processes: how many to start, at most; with 1 the calling process does the work.
        on_keys: called with the number of keys that were processed since the last call.

    Raises:
        ConversionError: a process dies.
    """
    processes = min(processes, len(indices))
    if processes < 2:
        for index in indices:
            yield function(index, lambda: on_keys(1))
        return
    context = get_context("spawn")  # a forked process with ArrayRecord's threads may hang
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(processes, context, _initialize, (function, counter))
    try:
        yield from _results(pool, iter(indices), 2 * processes, counter, on_keys)
    except BrokenProcessPool as error:
        raise ConversionError(
            "a process died; the usual cause is a lack of memory: use fewer --workers. "
            "Run the same command again: finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor,
    indices: Iterable[int],
    max_pending: int,
    counter: Any,
    on_keys: Callable[[int], Any],
) -> Iterator[Any]:
    pending = {pool.submit(_call, index) for index in islice(indices, max_pending)}
    while pending:
        done, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
        with counter.get_lock():
            num_keys, counter.value = counter.value, 0
        on_keys(num_keys)
        for future in done:
            yield future.result()
            pending |= {pool.submit(_call, index) for index in islice(indices, 1)}


# ------------------------------------------------------------ in the worker processes

_state: dict[str, Any] = {}


def _initialize(function: ShardFunction, counter: Any) -> None:
    _state.update(function=function, counter=counter)
    threading.Thread(target=_exit_with_parent, daemon=True).start()


def _exit_with_parent() -> None:
    """Exit when the parent was killed, as nobody waits for the results then."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(index: int) -> Any:
    return _state["function"](index, _count_key)


def _count_key() -> None:
    counter = _state["counter"]
    with counter.get_lock():
        counter.value += 1
