"""One function over the shards of a dataset, in as many processes as wanted."""

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

# The index of a shard, and what to call after every key; it must be possible to pickle it.
ShardWork = Callable[[int, Callable[[], None]], Any]

SECONDS_BETWEEN_LOOKS = 0.2


def over_shards(
    work: ShardWork, indices: list[int], processes: int, advance: Callable[[int], Any]
) -> Iterator[Any]:
    """What the work gives for each shard, in no order. `advance` hears of keys as they are done.

    Raises: ConversionError when a process dies; what the work raises.
    """
    processes = min(processes, len(indices))
    if processes < 2:
        for index in indices:
            yield work(index, lambda: advance(1))
        return
    context = get_context("spawn")  # forking a process with ArrayRecord's threads may hang
    counter = context.Value("q", 0)
    pool = ProcessPoolExecutor(processes, context, _begin, (work, counter))
    try:
        yield from _results(pool, iter(indices), 2 * processes, lambda: _take(counter, advance))
    except BrokenProcessPool as error:
        raise ConversionError(
            "a process died; most often memory ran out: try fewer --processes. "
            "Run the same command again, finished shards are kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _results(
    pool: ProcessPoolExecutor, indices: Iterable[int], ahead: int, look: Callable[[], None]
) -> Iterator[Any]:
    pending = {pool.submit(_do, index) for index in islice(indices, ahead)}
    while pending:
        done, pending = wait(pending, SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
        look()
        for future in done:
            yield future.result()
            pending |= {pool.submit(_do, index) for index in islice(indices, 1)}


def _take(counter: Any, advance: Callable[[int], Any]) -> None:
    with counter.get_lock():
        count, counter.value = counter.value, 0
    advance(count)


# ------------------------------------------------------------ in the processes

_state: dict[str, Any] = {}


def _begin(work: ShardWork, counter: Any) -> None:
    _state.update(work=work, counter=counter)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """A parent that was killed leaves nobody to work for."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _do(index: int) -> Any:
    return _state["work"](index, _count)


def _count() -> None:
    counter = _state["counter"]
    with counter.get_lock():
        counter.value += 1
