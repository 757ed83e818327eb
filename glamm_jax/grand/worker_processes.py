"""Worker processes, each of which processes chunks one after the other.

`run_workers` has several for the local driver; a `ReplacedWorker` is one inside of the process of
an engine. A worker that dies (killed for memory, a crash of a library) is replaced and its chunk is
tried again; a chunk whose workers die several times is left out. When the process that started them
dies, workers finish the stage of their chunk and end.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any
from weakref import finalize

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.execution import ChunkWorker, Job, Session, StageEvent

_STARTING = -1  # in the place of a chunk, for workers that died before their first one


class WorkerProcessError(GLaMMError):
    """A worker cannot start or go on: a model that cannot be loaded, a full disk."""


def reason_of(error: Exception) -> str:
    """Return what a worker said; engines report it as the end of long tracebacks."""
    found = re.search(rf"\b{WorkerProcessError.__name__}: (.+)", str(error))
    return found[1] if found else str(error)


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def run_workers(
    session: Session, group: int, chunks: Sequence[int], environments: Sequence[str | None]
) -> None:
    """Process chunks in processes that are started by spawn.

    Args:
        session: of the run.
        group: number of the group of stages.
        chunks: their numbers.
        environments: one worker for each: its CUDA_VISIBLE_DEVICES, or None for that of the driver.

    Raises:
        WorkerProcessError: a worker cannot start or go on.
    """
    waiting, deaths = deque(chunks), Counter[int]()
    workers: dict[Any, _Worker] = {}
    pickled = pickle.dumps(session.job)

    def start(environment: str | None) -> None:
        worker = _Worker(session.job, pickled, group, environment)
        workers[worker.connection] = worker

    try:
        for environment in environments[: len(chunks)]:
            start(environment)
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]
                try:
                    event = worker.receive()
                except (EOFError, OSError):
                    workers.pop(connection).close()
                    worker.give_back(waiting, deaths)
                    if waiting:
                        start(worker.environment)
                    continue
                if event is not None:
                    session.record(event)
                elif not worker.send(waiting):
                    workers.pop(connection).close()
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.close()


class ReplacedWorker:
    """A worker process inside of an engine's, replaced if it dies.

    So a chunk that needs too much memory, or crashes a library, ends a process of ours: engines
    would try it again for ever, or wait for ever.
    """

    def __init__(self, pickled_job: bytes, group: int):
        """Start no process yet.

        Args:
            pickled_job: what the engine's pickle made of a `Job`.
            group: number of the group of stages.
        """
        self._pickled, self._group = pickled_job, group
        self._worker: _Worker | None = None

    def process(self, chunk: int) -> None:
        """Process a chunk; one whose workers died several times is left out of the run.

        Raises:
            WorkerProcessError: a worker cannot start or go on.
        """
        waiting, deaths = deque([chunk]), Counter[int]()
        while True:
            worker = self._worker = self._worker or self._start()
            if worker.is_ready and not worker.send(waiting):
                return
            try:
                worker.receive()
            except (EOFError, OSError):
                self.close()
                worker.give_back(waiting, deaths)
                if not waiting:
                    return

    def _start(self) -> _Worker:
        return _Worker(pickle.loads(self._pickled), self._pickled, self._group, None)

    def close(self) -> None:
        """End the process."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None


class _Worker:
    """A worker process from the side of the process that started it."""

    def __init__(self, job: Job, pickled_job: bytes, group: int, environment: str | None):
        context = get_context("spawn")  # a forked process with a framework's threads may hang
        self.job, self.group, self.environment = job, group, environment
        self.chunk: int | None = None
        self.is_ready = False  # for a chunk
        self.connection: Connection
        self.connection, worker_end = context.Pipe()
        # At exit, before multiprocessing waits for the process: engines may end without `close`.
        finalize(self, self.connection.close)
        self.process = context.Process(
            target=_work, args=(pickled_job, group, environment, worker_end)
        )
        self.process.start()
        worker_end.close()

    def receive(self) -> StageEvent | None:
        """Return what the worker wrote; None if it is ready for a chunk.

        Raises:
            EOFError, OSError: it has died.
            WorkerProcessError: it cannot go on.
        """
        message = self.connection.recv()
        if isinstance(message, str):
            raise WorkerProcessError(message)
        self.is_ready = message is None
        return message

    def send(self, waiting: deque[int]) -> bool:
        """Send the next chunk; returns False if there is none."""
        self.chunk = waiting.popleft() if waiting else None
        try:
            if self.chunk is not None:
                self.is_ready = False
                self.connection.send(self.chunk)
        except OSError:  # it has died; the next `receive` says so
            pass
        return self.chunk is not None

    def give_back(self, waiting: deque[int], deaths: Counter[int]) -> None:
        """Return the chunk of a worker that died, or give the chunk up.

        Args:
            waiting: chunks that no worker has.
            deaths: number of workers that died, by chunk.

        Raises:
            WorkerProcessError: several died before they were ready.
        """
        status = f"a worker ended with status {self.process.exitcode}"
        key = _STARTING if self.chunk is None else self.chunk
        deaths[key] += 1
        if self.chunk is None:
            if deaths[key] >= self.job.max_failures:
                raise WorkerProcessError(f"{status} while it was starting, or loading its models")
        elif deaths[key] < self.job.max_failures:
            waiting.appendleft(self.chunk)
        else:
            reason = f"{status}, {deaths[key]} times; the usual cause is a lack of memory\n"
            self.job.quarantine(self.group, self.chunk, reason)

    def close(self) -> None:
        """Wait until the process has ended; it ends when its connection is closed."""
        self.connection.close()
        self.process.join()


# ------------------------------------------------------------ in the worker processes


def _work(pickled_job: bytes, group: int, environment: str | None, connection: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends the workers
    if environment is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = environment
    parent = parent_process()
    try:
        job: Job = pickle.loads(pickled_job)
        worker = ChunkWorker(job, lambda: parent is not None and not parent.is_alive())
        with job.run.worker_lock():
            worker.set_up(group)
        connection.send(None)
        while True:
            chunk = connection.recv()
            with job.run.worker_lock():  # only now: a worker that waits is in nobody's way
                worker.process(group, chunk, connection.send)
            connection.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the driver has ended
        return
    except GLaMMError as error:
        connection.send(str(error))
    except Exception as error:
        connection.send(f"a worker failed: {type(error).__name__}: {error}")
