"""Worker processes on one machine, each of which processes chunks until there are no more.

A worker that dies (killed for memory, a crash of a library) is replaced and its chunk is tried
again. When the driver dies, its workers finish the stage of their chunk and end.
"""

from __future__ import annotations

import os
import signal
from collections import Counter, deque
from collections.abc import Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.execution import ChunkWorker, Job, Session, StageEvent

_STARTING = -1  # in the place of a chunk, for workers that died before their first one


class WorkerProcessError(GLaMMError):
    """A worker cannot start or go on: a model that cannot be loaded, a full disk."""


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

    def start(environment: str | None) -> None:
        worker = _Worker(session.job, group, environment)
        workers[worker.connection] = worker

    try:
        for environment in environments[: len(chunks)]:
            start(environment)
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]
                try:
                    message = worker.connection.recv()
                except (EOFError, OSError):
                    workers.pop(connection).close()
                    worker.give_back(session, waiting, deaths)
                    if waiting:
                        start(worker.environment)
                    continue
                if isinstance(message, StageEvent):
                    session.record(message)
                elif isinstance(message, str):
                    raise WorkerProcessError(message)
                elif not worker.send(waiting):
                    workers.pop(connection).close()
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.close()


class _Worker:
    """A worker process from the driver's side."""

    def __init__(self, job: Job, group: int, environment: str | None):
        context = get_context("spawn")  # a forked process with a framework's threads may hang
        self.group, self.environment = group, environment
        self.chunk: int | None = None
        self.connection: Connection
        self.connection, worker_end = context.Pipe()
        self.process = context.Process(target=_work, args=(job, group, environment, worker_end))
        self.process.start()
        worker_end.close()

    def send(self, waiting: deque[int]) -> bool:
        """Send the next chunk; returns False if there is none."""
        self.chunk = waiting.popleft() if waiting else None
        try:
            if self.chunk is not None:
                self.connection.send(self.chunk)
        except OSError:  # it has died; the next `recv` says so
            pass
        return self.chunk is not None

    def give_back(self, session: Session, waiting: deque[int], deaths: Counter[int]) -> None:
        """Return the chunk of a worker that died, or give the chunk up.

        Args:
            session: of the run.
            waiting: chunks that no worker has.
            deaths: number of workers that died, by chunk.

        Raises:
            WorkerProcessError: several died before they were ready.
        """
        status = f"a worker ended with status {self.process.exitcode}"
        key = _STARTING if self.chunk is None else self.chunk
        deaths[key] += 1
        if self.chunk is None:
            if deaths[key] >= session.job.max_failures:
                raise WorkerProcessError(f"{status} while it was starting, or loading its models")
        elif deaths[key] < session.job.max_failures:
            waiting.appendleft(self.chunk)
        else:
            reason = f"{status}, {deaths[key]} times; the usual cause is a lack of memory\n"
            session.quarantine(self.group, self.chunk, reason)

    def close(self) -> None:
        """Wait until the process has ended; it ends when its connection is closed."""
        self.connection.close()
        self.process.join()


# ------------------------------------------------------------ in the worker processes


def _work(job: Job, group: int, environment: str | None, connection: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends the workers
    if environment is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = environment
    parent = parent_process()
    worker = ChunkWorker(job, lambda: parent is not None and not parent.is_alive())
    try:
        with job.run.worker_lock():
            worker.set_up(group)
            connection.send(None)
            while True:
                worker.process(group, connection.recv(), connection.send)
                connection.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):  # the driver has ended
        return
    except GLaMMError as error:
        connection.send(str(error))
    except Exception as error:
        connection.send(f"a worker failed: {type(error).__name__}: {error}")
