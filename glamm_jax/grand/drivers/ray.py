"""The driver for Ray: `pip install glamm-jax[ray]`.

    run_ray(run, graph, processes=2)            # starts Ray on this machine
    run_ray(run, graph, address="auto", processes=64, devices=16)   # a cluster that runs

On a cluster, with the run folder and the photographs where all its nodes reach them (a bucket or a
shared file system), submit the program from any machine:

    ray job submit --address http://HEAD:8265 --runtime-env-json '{"pip": ["glamm-jax[ray]"]}' \
        -- python program.py

Every group of stages has a pool of actors of its own, so that each model is loaded once per actor,
and all groups work at the same time. An actor that dies is replaced by Ray, and its chunk is tried
again. Ray Data moves the numbers of chunks; sections go through the run folder.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.execution import (
    ChunkWorker,
    Job,
    OnProgress,
    RunResult,
    Session,
    ignore,
    watch_listing,
)
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import StageGraph


class RayDriverError(GLaMMError):
    """Ray is missing, or its job failed."""


class _ChunkActor:
    """An actor of a group of stages; its batches are numbers of chunks."""

    def __init__(self, job: Job, group: int):
        self._worker, self._group = ChunkWorker(job), group

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for chunk in batch["chunk"]:
            self._worker.process(self._group, int(chunk))
        return batch


def run_ray(
    run: AnnotationRun,
    graph: StageGraph,
    *,
    address: str | None = None,
    processes: int | None = None,
    devices: int = 1,
    on_progress: OnProgress = ignore,
    max_failures: int = 3,
) -> RunResult:
    """Process all chunks that are missing.

    Args:
        run: the folder; all nodes must reach it and the photographs.
        graph: the stages.
        address: of a cluster; None: start Ray here, unless the program did.
        processes: actors of each group of stages on the CPU; None: one per core of this machine.
        devices: actors of each group of stages that needs a device, one GPU each.
        on_progress: called for every stage at the beginning, and when its listing changes, by
            another thread.
        max_failures: of a chunk, after which it is left out; the result names it.

    Raises:
        RayDriverError: Ray is not installed, or the job failed.
        FolderError: another run writes the folder.
        RunFolderError: the folder cannot be read or written.
    """
    try:
        ray: Any = import_module("ray")  # an extra
        ray_data: Any = import_module("ray.data")
    except ImportError as error:
        raise RayDriverError("Ray is not installed: pip install glamm-jax[ray]") from error
    job = Job(run, graph, max_failures)
    processes = processes or len(os.sched_getaffinity(0))
    sizes = [devices if group.needs_device else processes for group in graph.groups]
    with Session(job, on_progress) as session, watch_listing(session):
        chunks = session.all_pending()
        try:
            if chunks and address:
                ray.init(address, ignore_reinit_error=True)
            elif chunks and not ray.is_initialized():
                # Reading needs a slot as well: with as many CPUs as actors the job would hang.
                cpus = sum(sizes) + 1
                ray.init(num_cpus=cpus, include_dashboard=False, log_to_driver=False)
            if chunks:
                items = [{"chunk": chunk} for chunk in chunks]
                data = ray_data.from_items(items, override_num_blocks=len(chunks))
                for index, group in enumerate(graph.groups):
                    data = data.map_batches(
                        _ChunkActor,
                        fn_constructor_args=(job, index),
                        batch_size=1,
                        concurrency=min(sizes[index], len(chunks)),
                        num_cpus=1,
                        num_gpus=1 if group.needs_device else 0,
                    )
                for _ in data.iter_batches(batch_size=None):
                    pass
        except Exception as error:  # Ray raises many kinds
            raise RayDriverError(f"the job failed: {error}") from error
    return session.result()
