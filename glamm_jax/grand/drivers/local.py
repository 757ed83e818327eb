"""The driver for one machine: processes, without any further library.

    if __name__ == "__main__":                  # processes are started by spawn
        result = run_local(run, graph, processes=2)

The groups of stages follow each other: one worker per core for those on the CPU, one per device for
those whose models need one, so that a device has one model at a time.
"""

from __future__ import annotations

from collections.abc import Sequence

from glamm_jax.grand.execution import ChunkWorker, Job, OnProgress, RunResult, Session, ignore
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import StageGraph
from glamm_jax.grand.worker_processes import available_cores, run_workers
from glamm_jax.process_group import ProcessGroup


def run_local(
    run: AnnotationRun,
    graph: StageGraph,
    *,
    processes: int | None = None,
    devices: Sequence[str] = (),
    on_progress: OnProgress = ignore,
    max_failures: int = 3,
    hosts: ProcessGroup | None = None,
) -> RunResult:
    """Process all chunks that are missing.

    Args:
        run: the folder.
        graph: the stages.
        processes: workers of the stages on the CPU; None: one per core; 1: the calling process.
        devices: values of CUDA_VISIBLE_DEVICES, one worker for each; none: one worker that sees all
            devices. It is the calling process if `processes` is 1 and there is one group of stages
            with models for devices.
        on_progress: called for every stage at the beginning, and after every chunk.
        max_failures: of a chunk, after which it is left out; the result names it.
        hosts: processes that divide the chunks, one on each host; all must call this. The folder is
            on a file system of all. None: this host alone.

    Raises:
        FolderError: another run writes the folder.
        RunFolderError: the folder cannot be read or written.
        WorkerProcessError: a worker cannot start or go on.
        ProcessError: another of the hosts was lost.
    """
    job = Job(run, graph, max_failures)
    processes = processes or available_cores()
    with Session(job, on_progress, hosts) as session:
        in_this_process = ChunkWorker(job)
        # Nothing frees a model but the end of its process.
        may_load = sum(stages.needs_device for stages in graph.groups) < 2
        for group, stages in enumerate(graph.groups):
            chunks = session.pending(group)
            environments: list[str | None] = [None] * processes
            if stages.needs_device:
                environments = list(devices) or [None]
            if processes == 1 and environments == [None] and (may_load or not stages.needs_device):
                for chunk in chunks:
                    in_this_process.process(group, chunk, session.record)
            elif chunks:
                run_workers(session, group, chunks, environments)
        return session.result()
