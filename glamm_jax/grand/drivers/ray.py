"""The driver for Ray: `pip install glamm-jax[ray]`.

    run_ray(run, graph, processes=2)            # starts Ray on this machine
    run_ray(run, graph, address="auto", processes=64, devices=16)   # a cluster that runs

The run folder and the photographs must be where all nodes reach them: a bucket or a shared file
system. docs/annotate.md has the commands for a cluster.

Every group of stages has a pool of actors of its own, each with a worker process, so that each
model is loaded once per actor, and all groups work at the same time. An actor that dies is replaced
by Ray, its process finishes the stage of its chunk, and the chunk is tried again. Ray Data moves
the numbers of chunks; sections go through the run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.execution import Job, OnProgress, RunResult, Session, ignore, watch_listing
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import StageGraph
from glamm_jax.grand.worker_processes import ReplacedWorker, available_cores, reason_of

_OBJECT_STORE_BYTES = 200_000_000  # it has only numbers of chunks and the job
_STARTS = 3


class RayDriverError(GLaMMError):
    """Ray is missing, or its job failed."""


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
        import_module("ray.data")
    except ImportError as error:
        raise RayDriverError("Ray is not installed: pip install glamm-jax[ray]") from error
    job = Job(run, graph, max_failures)
    processes = processes or available_cores()
    actors = [devices if group.needs_device else processes for group in graph.groups]
    with Session(job, on_progress) as session, watch_listing(session):
        chunks = session.all_pending()
        starts_ray = bool(chunks) and not address and not ray.is_initialized()
        try:
            if starts_ray:
                # Reading needs a slot as well: with as many CPUs as actors the job would hang.
                start_ray(ray, sum(actors) + 1)
            elif chunks and address:
                ray.init(address, ignore_reinit_error=True)
            if chunks:
                _process(ray, job, chunks, actors, needs_gpu=address is not None)
        except Exception as error:  # Ray raises many kinds
            raise RayDriverError(f"the job failed: {reason_of(error)}") from error
        finally:
            if starts_ray:
                ray.shutdown()
    return session.result()


def start_ray(ray: Any, cpus: int) -> None:
    """Start Ray on this machine.

    Ray gives its processes 30 seconds, which a machine with other work may need more often.
    """
    for attempt in range(_STARTS):
        try:
            ray.init(
                num_cpus=cpus,
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
            )
            return
        except Exception as error:
            ray.shutdown()
            if "timed out" not in str(error) or attempt == _STARTS - 1:
                raise


def _process(
    ray: Any, job: Job, chunks: Sequence[int], actors: Sequence[int], needs_gpu: bool
) -> None:
    has_gpus = ray.cluster_resources().get("GPU", 0) >= 1
    if needs_gpu and not has_gpus and any(group.needs_device for group in job.graph.groups):
        raise ValueError("there are stages that need a GPU, and the cluster has none")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # the caller has some
    context.max_consecutive_actor_init_deaths = job.max_failures
    items = [{"chunk": chunk} for chunk in chunks]
    data = ray.data.from_items(items, override_num_blocks=len(chunks))
    for index, group in enumerate(job.graph.groups):
        data = data.map_batches(
            _ChunkActor,
            fn_constructor_args=(ray.cloudpickle.dumps(job), index),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors[index], len(chunks))),
            num_cpus=1,
            num_gpus=1 if group.needs_device and has_gpus else 0,
            max_task_retries=job.max_failures,  # a task is a chunk; by default there is no limit
        )
    for _ in data.iter_batches(batch_size=None):
        pass


class _ChunkActor:
    """An actor of a group of stages; its batches are numbers of chunks."""

    def __init__(self, pickled_job: bytes, group: int):
        self._worker = ReplacedWorker(pickled_job, group)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        for chunk in batch["chunk"]:
            self._worker.process(int(chunk))
        return batch
