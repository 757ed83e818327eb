"""Convert a dataset to record shards that TFDS and grain read, or check your own data.

examples:
  glamm-jax convert dataset refcoco --source ~/data --out shards --split train
  glamm-jax convert dataset jsonl --source photos.jsonl --check      # errors by line and field
  glamm-jax convert dataset jsonl --source photos.jsonl --out shards

NAME is the name of the dataset; it determines the layout of SOURCE. The files of all datasets are
expected below one data folder, in the layout of the original's documentation (docs/datasets.md).
`jsonl` is your own data, in a file whose format docs/your-data.md describes.

The result is the folder OUT/glamm_NAME/1.0.0, which `glamm_jax.data.record_shards.RecordShards`,
grain and tfds.data_source("glamm_NAME", data_dir=OUT) read. Each split is converted by a command of
its own, into the same OUT.

On several hosts with a common file system, each process (see the flags below) writes its share of
the shards, and process 0 the files about all of them.

The same command resumes an interrupted conversion: finished shards are kept, and no unfinished file
has a final name. Only one conversion can write a split into OUT at a time. The bytes of the shards
do not depend on the number of workers or processes.

Defects (parts of the source that cannot be converted) are counted in a table and listed for each
image in defects-SPLIT.json; the other parts of the image's record are kept.

Exit status: 0 success; 1 there are defects, with --strict or --check; 2 unusable input; 3
another process was lost or failed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path

from tqdm import tqdm

from glamm_jax.cli.processes import add_process_arguments, start_processes
from glamm_jax.cli.program import positive_int, printable, this_machine
from glamm_jax.data.conversion import ShardStats, SourceReader, check_shard, write_shard
from glamm_jax.data.record import TASKS, Defect
from glamm_jax.data.shard_processes import map_shards
from glamm_jax.data.sources.defects import SourceError
from glamm_jax.data.sources.registry import datasets, find_dataset
from glamm_jax.data.split_folder import ConversionError, SplitFolder
from glamm_jax.environment import ALLOW_OUTSIDE, environment_variables
from glamm_jax.process_group import ProcessGroup

EXAMPLES_PER_KIND = 2  # places that are printed per kind of defect
TABLE_WIDTH = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(datasets())}")
    parser.add_argument(
        "--source", type=this_machine, required=True, help="data folder (jsonl: the file)"
    )
    parser.add_argument(
        "--out", type=this_machine, help="folder of the shards, of one or several datasets"
    )
    parser.add_argument("--split", default="train", help="default: %(default)s")
    parser.add_argument("--check", action="store_true", help="read everything, write nothing")
    add_outside_argument(parser)
    add_writing_arguments(parser)
    add_process_arguments(parser)


def add_outside_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag that lets annotations name files outside of their folder."""
    parser.add_argument(
        "--allow-outside",
        action="store_true",
        help="permit annotations to name files outside of the data folder (by .., absolute, links)",
    )


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `convert` reads."""
    parser.add_argument(
        "--workers",
        type=positive_int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="worker processes of this host; default: one per core",
    )
    parser.add_argument(
        "--shards", type=positive_int, metavar="N", help="default: one per 1000 images"
    )
    parser.add_argument(
        "--strict", action="store_true", help="leave the dataset unfinished if there are defects"
    )
    parser.add_argument("--overwrite", action="store_true", help="remove this split from OUT first")
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="run as an Apache Beam pipeline (pip install 'glamm-jax[beam]') with these options: "
        '"--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"',
    )


def run(options: argparse.Namespace) -> int:
    """Convert or check; returns the exit status.

    Raises:
        ConversionError: the options are inconsistent, or the shards cannot be written.
        SourceError: there is no such dataset, or the source cannot be read.
    """
    if (options.out is None) != options.check:
        raise ConversionError("give either --out, or --check to write nothing")
    make_source = find_dataset(options.name)
    if not options.source.exists():
        raise SourceError(f"{options.source}: no such folder or file")
    # An environment variable, as the worker processes open the source again.
    with environment_variables(**({ALLOW_OUTSIDE: "1"} if options.allow_outside else {})):
        group = start_processes("dataset", options, options.out, share_devices=False)
        if group is not None and (options.check or options.beam is not None):
            option = "--check" if options.check else "--beam"
            raise ConversionError(f"{option} runs in one process; add --processes 1")
        reader = SourceReader(make_source, options.source, options.split, options.shards)
        return check(reader, options.workers) if options.check else convert(reader, options, group)


def convert(
    reader: SourceReader, options: argparse.Namespace, group: ProcessGroup | None = None
) -> int:
    """Write a split; returns 1 with --strict if there are defects, otherwise 0.

    Args:
        reader: of the source.
        options: the parsed command line.
        group: the processes that divide the shards; all must call this. None: only this one.

    Raises:
        ConversionError: the shards cannot be written, or no image has a record.
        FolderError: another conversion writes this split into the same folder.
        ProcessError: another process was lost.
    """
    target = reader.target(options.out)
    index, count = (group.index, group.count) if group else (0, 1)
    with target.lock() if index == 0 else nullcontext():
        if index == 0:
            target.begin(reader.description(), overwrite=options.overwrite)
        if group is not None:
            group.barrier(f"{target.split} begun")
        if options.beam is not None:
            _write_with_beam(reader, target, options.beam.split())
        else:
            _write_with_workers(reader, target, options.workers, index, count)
        if group is not None:
            group.barrier(f"{target.split} written")
        return _finish(reader, target, options) if index == 0 else 0


def _finish(reader: SourceReader, target: SplitFolder, options: argparse.Namespace) -> int:
    """Print and publish what was written; returns the exit status."""
    report = target.summarize(len(reader.keys))
    _print_counts(report.counts, report.num_keys)
    _print_defects(report.defects, target.defects_file)
    if report.defects and options.strict:
        print(f"{target.folder}: not finished, as there are defects (--strict)")
        return 1
    if not sum(report.shard_lengths):
        raise ConversionError(
            f"{target.folder}: no image gave a record, so the split is not finished; "
            "correct --source, then add --overwrite"
        )
    target.publish(report)
    print(f"{target.folder}: {len(report.shard_lengths)} shards, {report.num_bytes / 1e9:.2f} GB")
    return 0


def check(reader: SourceReader, workers: int) -> int:
    """Read a split and print every defect; returns 1 if there are any, otherwise 0."""
    counts: Counter[str] = Counter()
    defects: list[Defect] = []
    with tqdm(total=len(reader.keys), unit=" images", disable=None) as bar:
        work, indices = partial(check_shard, reader), list(range(reader.num_shards))
        stats: ShardStats
        for stats in map_shards(work, indices, workers, bar.update):
            counts += stats.counts
            defects += stats.defects
    for kind, where in sorted(defects, key=lambda defect: _natural_order(defect.where)):
        print(printable(f"{where} ({kind})"))
    _print_counts(counts, len(reader.keys))
    print(f"{len(defects)} defects")
    return int(bool(defects))


def _write_with_workers(
    reader: SourceReader, target: SplitFolder, workers: int, index: int = 0, count: int = 1
) -> None:
    """Write every `count`-th shard from `index` that is missing."""
    reports = {
        shard: target.shard_report(shard) for shard in range(index, target.num_shards, count)
    }
    done = sum(report.num_keys for report in reports.values() if report is not None)
    missing = [shard for shard, report in reports.items() if report is None]
    work = partial(write_shard, reader, target)
    total = len(reader.keys) if count == 1 else None  # the keys of a share are not known
    with tqdm(total=total, initial=done, unit=" images", disable=None) as bar:
        for _ in map_shards(work, missing, workers, bar.update):
            pass


def _write_with_beam(reader: SourceReader, target: SplitFolder, options: Sequence[str]) -> None:
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]  # an extra

        from glamm_jax.data.beam import WriteShards
    except ImportError as error:
        raise ConversionError("--beam needs apache-beam: pip install 'glamm-jax[beam]'") from error
    pipeline_options = beam.options.pipeline_options.PipelineOptions(list(options))
    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = pipeline | WriteShards(reader, target)


def _print_counts(counts: Mapping[str, int], num_keys: int) -> None:
    records, regions = counts.get("records", 0), counts.get("regions", 0)
    by_task = [f"{task} {counts[task]}" for task in TASKS if counts.get(task)]
    print(f"{records} records of {num_keys} images: {', '.join(by_task) or 'no annotations'}")
    masks, boxes = counts.get("masks", 0), counts.get("boxes", 0)
    print(f"{regions} regions, {masks} with a mask, {boxes} with a box")


def _print_defects(defects: Mapping[str, Sequence[str]], file: Path) -> None:
    """Print the number of defects of each kind, and the first places."""
    for kind, places in defects.items():
        for i, where in enumerate(places[:EXAMPLES_PER_KIND]):
            head = f"{len(places):7}  {kind:34}" if i == 0 else " " * 43
            print(printable(f"{head}  {where}"[:TABLE_WIDTH]))
    if defects:
        print(f"all defects by name: {file} (after correcting them, convert with --overwrite)")


def _natural_order(where: str) -> list[str]:
    """Return a sort key that sorts line 9 before line 10."""
    parts = re.split(r"(\d+)", where)  # numbers are at odd indices
    return [part.rjust(20, "0") if i % 2 else part for i, part in enumerate(parts)]


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.convert").main(["dataset", *sys.argv[1:]]))
