"""The driver for Apache Beam: `pip install glamm-jax[beam]`.

    run_beam(run, graph, processes=2)           # on this machine
    run_beam(run, graph, ["--runner=DataflowRunner", "--project=PROJECT", ...])

On Google Cloud Dataflow the run folder and the photographs are in a bucket, and the workers have an
image of this package with the models of the roles; docs/annotate.md has a command. All workers of a
job have the same accelerator; to use another kind, or none, for some stages, run
`graph.with_inputs_of(...)` as a job of its own first: what is finished is skipped. Give
`--number_of_worker_harness_threads=1` to workers whose memory has room for one model only.

An element of the pipeline is the number of a chunk; sections go through the run folder.
Each thread of Beam has a worker process of ours, on this machine too, because Beam's own local
processes are not replaced when they die.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

try:  # an extra
    import apache_beam as beam  # pyright: ignore[reportMissingImports]
    import cloudpickle  # pyright: ignore[reportMissingImports]  # comes with it
    from apache_beam.options.pipeline_options import (  # pyright: ignore[reportMissingImports]
        DirectOptions,
        PipelineOptions,
        StandardOptions,
    )
    from apache_beam.runners.portability.fn_api_runner import (  # pyright: ignore[reportMissingImports]
        FnApiRunner,
    )

    _DoFn: Any = beam.DoFn
except ImportError:
    beam: Any = None
    _DoFn = object

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.execution import Job, OnProgress, RunResult, Session, ignore, watch_listing
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.stages import StageGraph
from glamm_jax.grand.worker_processes import ReplacedWorker, available_cores, reason_of


class BeamError(GLaMMError):
    """Apache Beam is missing, its options cannot be used, or its pipeline failed."""


def run_beam(
    run: AnnotationRun,
    graph: StageGraph,
    options: Sequence[str] = (),
    *,
    processes: int | None = None,
    on_progress: OnProgress = ignore,
    max_failures: int = 3,
) -> RunResult:
    """Process all chunks that are missing, in one pipeline.

    Args:
        run: the folder; all workers must reach it and the photographs.
        graph: the stages.
        options: of the pipeline, as on a command line.
        processes: workers on this machine; None: one per core. Other runners have options for it.
        on_progress: called for every stage at the beginning, and when its listing changes, by
            another thread.
        max_failures: of a chunk, after which it is left out; the result names it.

    Raises:
        BeamError: Apache Beam is not installed, an option cannot be used, or the pipeline failed.
        FolderError: another run writes the folder.
        RunFolderError: the folder cannot be read or written.
    """
    if beam is None:
        raise BeamError("Apache Beam is not installed: pip install glamm-jax[beam]")
    job = Job(run, graph, max_failures)
    runner, pipeline_options = _runner_and_options(options, processes)
    with Session(job, on_progress) as session, watch_listing(session):
        chunks = session.all_pending()
        if chunks:
            pipeline = beam.Pipeline(runner, pipeline_options)
            pickled = cloudpickle.dumps(job)
            elements: Any = pipeline | "chunks" >> beam.Create(chunks)
            for group in range(len(graph.groups)):
                elements |= f"spread {group}" >> beam.Reshuffle()
                elements |= f"group {group}" >> beam.ParDo(_ProcessChunks(pickled, group))
            try:
                pipeline.run().wait_until_finish()
            except Exception as error:  # runners raise their own kinds
                raise BeamError(f"the pipeline failed: {reason_of(error)}") from error
    return session.result()


def _runner_and_options(options: Sequence[str], processes: int | None) -> tuple[Any, Any]:
    parsed = PipelineOptions(list(options))
    name = parsed.view_as(StandardOptions).runner
    if name not in (None, "DirectRunner"):
        if processes is not None:
            raise BeamError(f"the number of workers of {name} is one of its own options")
        return None, parsed
    direct = parsed.view_as(DirectOptions)
    if direct.direct_running_mode == "multi_processing":
        raise BeamError(
            "direct_running_mode=multi_processing waits for ever when a worker dies: leave it out, "
            "each worker has a process of its own without it"
        )
    direct.direct_num_workers = processes or available_cores()
    direct.direct_running_mode = "multi_threading"
    return FnApiRunner(), parsed  # DirectRunner may download another one and start that


class _ProcessChunks(_DoFn):
    """A worker of a group of stages; its elements are numbers of chunks."""

    def __init__(self, pickled_job: bytes, group: int):
        self._pickled_job, self._group = pickled_job, group

    def setup(self) -> None:
        self._worker = ReplacedWorker(self._pickled_job, self._group)

    def process(self, element: int) -> Iterator[int]:
        self._worker.process(element)
        yield element

    def teardown(self) -> None:
        self._worker.close()
