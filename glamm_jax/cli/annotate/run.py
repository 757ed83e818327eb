"""Annotate the photographs of a folder, or continue to.

examples:
  glamm-jax annotate run out/scenes/images --out out/run --roles configs/annotate/oracle.toml
  glamm-jax annotate run out/scenes/images --out out/released --preset released --workers 2 \\
      --roles configs/annotate/oracle.toml
  glamm-jax annotate run out/scenes/images --out out/run --roles configs/annotate/oracle.toml \\
      --set fusion.min_sources=2 --set verification.max_rounds=1
  glamm-jax annotate run out/scenes/images --out out/run --roles configs/annotate/oracle.toml \\
      --plan 11000000 --workers 64 --plan-devices 8 --worker-price 0.05 --device-price 2.5

PHOTOS is a folder; every file in it and in the folders in it is an image of the run. What is not an
image is listed as rejected, with the reason. --limit N takes the first N by name, --images LIST
those that a text file names, one path a line. A run folder belongs to one list of images.

--roles names a file that says which models are used; docs/annotate.md describes it. --set changes
an option by its name; `glamm-jax annotate presets` lists all.

On several hosts with a common file system, each process (see the flags below) annotates every N-th
chunk, and process 0 shows the result; --driver beam and ray divide the work themselves.

The same command continues after an interruption. A photograph whose content changed since it was
annotated, and one that could not be read and now can, are annotated again, with the others of their
chunk. With other options only the stages that depend on them run again, and the earlier results
stay beside the new ones.

--plan N runs nothing: it computes hours, cost and memory of each stage for N images from what was
measured in this run folder, and names the bottleneck; measure with --limit first.

Exit status: 0 success; 1 chunks failed several times, or more images than --allow-failures were
rejected or failed; 2 unusable input; 3 another process was lost or failed.
"""

from __future__ import annotations

import argparse
import heapq
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from pathlib import Path

from etils import epath

from glamm_jax.cli.annotate.plan import PlanOptions, plan_text
from glamm_jax.cli.annotate.stage_bars import StageBars
from glamm_jax.cli.annotate.usage_table import usage_lines
from glamm_jax.cli.processes import add_process_arguments, start_processes
from glamm_jax.cli.program import positive_int, printable, this_machine
from glamm_jax.config.overrides import with_overrides
from glamm_jax.errors import ConfigError
from glamm_jax.files import read_regular_file
from glamm_jax.grand.chunks import RunFolderError, is_local, list_names
from glamm_jax.grand.execution import OnProgress, RunResult
from glamm_jax.grand.images import listed_images, scan_images
from glamm_jax.grand.option_list import full_name
from glamm_jax.grand.photograph_changes import PhotographChanges
from glamm_jax.grand.pipeline import PIPELINES, build_graph
from glamm_jax.grand.role_files import read_roles
from glamm_jax.grand.run_folder import AnnotationRun, ImageEntry, StageStatus
from glamm_jax.grand.run_records import model_usage
from glamm_jax.grand.stages import StageGraph
from glamm_jax.process_group import LOGS, ProcessGroup
from glamm_jax.report.text_table import text_table

DRIVERS = ("local", "beam", "ray")
MAX_LIST_BYTES = 1 << 30  # of --images
MAX_REFUSED = 5  # files named that are left out
# What a run that was stopped at its very beginning leaves in its folder.
UNFINISHED = {".lock", ".workers.lock", "images.jsonl", LOGS}
DONE, FAILED = 0, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("photos", metavar="PHOTOS", help="folder of the images")
    parser.add_argument("--out", required=True, metavar="RUN", help="the run folder")
    parser.add_argument(
        "--roles",
        type=this_machine,
        required=True,
        metavar="FILE",
        help="which models are used (TOML)",
    )
    parser.add_argument(
        "--trust-roles", action="store_true", help="import the classes that the file names"
    )
    parser.add_argument(
        "--preset", choices=PIPELINES, default="paper", help="options (%(default)s)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="change an option"
    )
    parser.add_argument("--driver", choices=DRIVERS, default="local", help="default: %(default)s")
    parser.add_argument(
        "--workers", type=positive_int, metavar="N", help="processes; default: one per core"
    )
    parser.add_argument(
        "--devices", metavar="0,1", help="accelerators; of Ray: how many workers have a GPU"
    )
    parser.add_argument(
        "--driver-option",
        action="append",
        default=[],
        metavar="OPTION",
        help="of Beam's pipeline, such as --driver-option=--runner=DataflowRunner; of Ray: "
        "address=ADDRESS of a cluster",
    )
    parser.add_argument(
        "--chunk-size", type=positive_int, metavar="N", help="images in a file (200)"
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N images only")
    parser.add_argument(
        "--images",
        type=this_machine,
        metavar="LIST",
        help="only the images that this text file names",
    )
    parser.add_argument(
        "--allow-failures",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="of all images that may be rejected or fail (%(default)s)",
    )
    plan = parser.add_argument_group("plan").add_argument
    plan("--plan", type=positive_int, metavar="N", help="only compute the hours for N images")
    plan(
        "--plan-devices",
        type=positive_int,
        default=1,
        metavar="N",
        help="accelerators of the plan; its processes on the CPU are --workers (%(default)s)",
    )
    plan("--worker-price", type=float, default=0.0, metavar="PRICE", help="of an hour of a process")
    plan(
        "--device-price",
        type=float,
        default=0.0,
        metavar="PRICE",
        help="of an hour of an accelerator with its host",
    )
    add_process_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Annotate; returns the exit status."""
    check_driver_options(options)
    photos = options.photos
    roles = read_roles(
        options.roles,
        photographs=Path(photos).absolute() if "://" not in photos else None,
        trust=options.trust_roles,
    )
    pipeline = with_overrides(PIPELINES[options.preset], map(full_name, options.set))
    graph = build_graph(roles, pipeline)
    if options.plan:
        plan = PlanOptions(
            options.plan,
            options.workers or 1,
            options.plan_devices,
            *(options.worker_price, options.device_price),
        )
        print(plan_text(AnnotationRun.open(options.out), graph, plan))
        return DONE
    hosts = start_processes("run", options, options.out, graph.fingerprints, share_devices=False)
    if hosts is not None and options.driver != "local":
        raise ConfigError(f"--driver {options.driver} runs in one process; add --processes 1")
    if hosts is not None and hosts.index > 0:
        hosts.barrier("folder created")
        folder = AnnotationRun.open(options.out)
    else:
        folder = _create_folder(options)
        _print_state(folder, graph)
        if hosts is not None:
            hosts.barrier("folder created")
    with StageBars(graph.stages) as bars:
        result = _drive(options, folder, graph, bars, hosts)
    if hosts is not None and hosts.index > 0:
        return DONE  # process 0 judges the result
    print(_summary(folder, result))
    return _exit_status(folder, result, options.allow_failures)


# ------------------------------------------------------------------ the images


def _create_folder(options: argparse.Namespace) -> AnnotationRun:
    _check_folder(epath.Path(options.out))
    refused = _Refused()
    images = _images(options, refused)
    folder = AnnotationRun.create(options.out, images, options.photos, options.chunk_size)
    refused.show()
    return folder


class _Refused:
    """Files that are not taken as images."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._number = 0

    def __call__(self, name: str, reason: str) -> None:
        self._number += 1
        if len(self._lines) < MAX_REFUSED:
            self._lines.append(f"left out: {name}: {reason}")

    def show(self) -> None:
        for line in self._lines:
            print(printable(line), file=sys.stderr)
        if self._number > len(self._lines):
            print(f"left out: {self._number - len(self._lines)} more", file=sys.stderr)


def _images(options: argparse.Namespace, refused: _Refused) -> Iterable[ImageEntry]:
    if options.images is not None:
        names = _listed_names(options.images)
        entries = listed_images(options.photos, names)
    else:
        entries = scan_images(options.photos, refused, [options.out])
    if options.limit is not None:
        return heapq.nsmallest(options.limit, entries, key=lambda entry: entry.image_id)
    return entries


def _listed_names(path: Path) -> Iterator[str]:
    try:
        lines = read_regular_file(path, MAX_LIST_BYTES).decode().splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8") from error
    return (line.strip() for line in lines if line.strip())


def _check_folder(folder: epath.Path) -> None:
    """Refuse a folder with other files, which a run would be written between."""
    names = set(list_names(folder)) if not is_local(folder) or os.path.isdir(folder) else set()
    if names - UNFINISHED and "manifest.json" not in names:
        raise RunFolderError(
            f"{folder}: has other files and is not the folder of a run; choose a new folder"
        )


# ------------------------------------------------------------------ the run


def _drive(
    options: argparse.Namespace,
    folder: AnnotationRun,
    graph: StageGraph,
    on_progress: OnProgress,
    hosts: ProcessGroup | None,
) -> RunResult:
    if options.driver == "beam":
        from glamm_jax.grand.drivers.beam import run_beam

        return run_beam(
            folder,
            graph,
            options.driver_option,
            processes=options.workers,
            on_progress=on_progress,
        )
    if options.driver == "ray":
        from glamm_jax.grand.drivers.ray import run_ray

        return run_ray(
            folder,
            graph,
            address=_ray_address(options.driver_option),
            processes=options.workers,
            devices=_number_of_devices(options.devices),
            on_progress=on_progress,
        )
    from glamm_jax.grand.drivers.local import run_local

    devices = [name for name in (options.devices or "").split(",") if name]
    return run_local(
        folder,
        graph,
        processes=options.workers,
        devices=devices,
        on_progress=on_progress,
        hosts=hosts,
    )


def check_driver_options(options: argparse.Namespace) -> None:
    """Refuse options that the driver would not use.

    Raises:
        ConfigError: names the option.
    """
    if options.driver == "local" and options.driver_option:
        raise ConfigError("--driver-option is for --driver beam and ray, not for local")
    if options.driver == "beam" and options.devices is not None:
        raise ConfigError("--devices is not for --driver beam: its runners have options for it")
    if options.driver == "ray":
        _ray_address(options.driver_option)
        _number_of_devices(options.devices)


def _ray_address(driver_options: Sequence[str]) -> str | None:
    """Return the address of the cluster; None: Ray is started on this machine."""
    name, _, address = driver_options[0].partition("=") if driver_options else ("", "", "")
    if len(driver_options) > 1 or (driver_options and (name != "address" or not address)):
        raise ConfigError(
            f"--driver-option {' '.join(driver_options)}: Ray has one, address=ADDRESS"
        )
    return address or None


def _number_of_devices(devices: str | None) -> int:
    """Return how many workers have a GPU."""
    if devices is not None and not (devices.isdecimal() and int(devices)):
        raise ConfigError(f"--devices {devices}: with --driver ray, how many workers have a GPU")
    return int(devices or 1)


def _print_state(folder: AnnotationRun, graph: StageGraph) -> None:
    """Say what is finished, and what will be computed."""
    finished, part, new = [], [], []
    for name, fingerprint in graph.fingerprints.items():
        number = len(folder.finished(name, fingerprint))
        kind = finished if number == folder.num_chunks else part if number else new
        kind.append(name)
    chunks = f"{folder.num_chunks} chunk{'s' if folder.num_chunks > 1 else ''}"
    print(f"{folder.path}: {folder.num_images:,} images in {chunks}")
    if finished or part:
        print(f"finished: {len(finished)} of {len(graph.stages)} stages")
        if part:
            print(f"to continue: {', '.join(part)}")
        if new:
            print(f"to compute: {', '.join(new)}")


def _summary(folder: AnnotationRun, result: RunResult) -> str:
    stages = [stage for stage in result.stages if _has_problem(stage)]
    if not result.computed_chunks and result.complete:
        lines = [f"nothing to do: all {len(result.stages)} stages are finished"]
    else:
        seconds = max(result.seconds, 1e-9)
        lines = [
            f"{result.computed_chunks:,} chunk files of {len(result.stages)} stages in "
            f"{seconds:.1f} s"
        ]
    if stages:
        header = ("stage", "done", "failed", "skipped", "rejected", "missing")
        rows = [(s.name, s.done, s.failed, s.skipped, s.rejected, s.missing) for s in stages]
        lines += ["", text_table(header, rows)]
    lines += _change_lines(result.changes)
    lines += [
        f"chunk {chunk} of stage {name} failed several times: "
        f"{folder.chunk_path(name, _fingerprint(result, name), chunk, 'quarantine')}"
        for name, chunk in result.quarantined
    ]
    lines += usage_lines(model_usage(folder))
    lines.append(f"see: glamm-jax annotate report {folder.path}")
    return "\n".join(lines)


def _change_lines(changes: PhotographChanges) -> list[str]:
    """Say which photographs are the reason that chunks were computed again."""
    if not changes.chunks:
        return []
    texts = {
        "changed since they were annotated": changes.replaced,
        "could not be read before": changes.readable,
    }
    counts = " and ".join(f"{number:,} {text}" for text, number in texts.items() if number)
    names = ", ".join(changes.names)
    more = ", ..." if changes.replaced + changes.readable > len(changes.names) else ""
    return [
        printable(
            f"photographs: {counts} ({names}{more}); computed again: {changes.chunks:,} chunks"
        )
    ]


def _has_problem(stage: StageStatus) -> bool:
    return bool(stage.failed or stage.rejected or stage.missing)


def _fingerprint(result: RunResult, name: str) -> str:
    return next(stage.fingerprint for stage in result.stages if stage.name == name)


def _exit_status(folder: AnnotationRun, result: RunResult, allowed: float) -> int:
    worst = max(stage.failed + stage.rejected for stage in result.stages)
    if worst > allowed * folder.num_images:
        print(
            f"{worst:,} of {folder.num_images:,} images were rejected or failed in a stage; "
            f"--allow-failures {allowed:g}",
            file=sys.stderr,
        )
        return FAILED
    return FAILED if result.quarantined or not result.complete else DONE


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["run", *sys.argv[1:]]))
