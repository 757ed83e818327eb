"""Turn a dataset into shards that TFDS and grain read; check what it holds; check your own data.

NAME says how SOURCE is laid out (docs/datasets.md: the files of each, below one data folder as the
original's documentation or its code has them). `jsonl` is your own data, a file described in
docs/your-data.md.

  python -m convert dataset refcoco --source ~/data --out shards --split train
  python -m convert dataset jsonl --source photos.jsonl --check      every error, by line and field
  python -m convert dataset jsonl --source photos.jsonl --out shards

What comes out is OUT/glamm_NAME/1.0.0, where glamm_jax.data.record_shards.Shards, grain and
tfds.data_source("glamm_NAME", data_dir=OUT) find it. Splits are converted one by one into one OUT.

Stopped or killed? Run the same command again: finished shards are kept, and nothing looks finished
that is not. The shards are the same, byte for byte, whatever the number of processes.

What cannot be taken over as it is, is counted in a table and named in defects-SPLIT.json, picture
by picture; the rest of it is kept. Exit status: 0 done, 1 there are defects and --strict or --check
was given, 2 the conversion cannot go on.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from glamm_jax.data.conversion import Reading, Tally, check_shard, write_shard
from glamm_jax.data.record import TASKS, Defect
from glamm_jax.data.shard_processes import over_shards
from glamm_jax.data.sources.registry import datasets, find_dataset
from glamm_jax.data.sources.source_files import SourceError
from glamm_jax.data.split_folder import ConversionError, SplitFolder

EXAMPLES, TABLE_WIDTH = 2, 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(datasets())}")
    parser.add_argument(
        "--source", type=Path, required=True, help="the data folder (jsonl: the file)"
    )
    parser.add_argument("--out", type=Path, help="where the shards go; several datasets share it")
    parser.add_argument("--split", default="train", help="default: train")
    parser.add_argument("--check", action="store_true", help="read everything, write nothing")
    add_writing_arguments(parser)


def add_writing_arguments(parser: argparse.ArgumentParser) -> None:
    """What `convert` asks for."""
    parser.add_argument(
        "--processes",
        type=_positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="default: one a core",
    )
    parser.add_argument(
        "--shards", type=_positive, metavar="N", help="default: one for every 1000 pictures"
    )
    parser.add_argument("--strict", action="store_true", help="defects leave it unfinished")
    parser.add_argument(
        "--overwrite", action="store_true", help="begin anew: remove this split from OUT first"
    )
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="let Apache Beam do it (pip install 'glamm-jax[beam]'), with its options, such as "
        '"--runner=DirectRunner --direct_running_mode=multi_processing --direct_num_workers=2"',
    )


def run(options: argparse.Namespace) -> int:
    """Convert or check; 2 when that cannot go on."""
    try:
        if (options.out is None) != options.check:
            raise ConversionError("give either --out, or --check to write nothing")
        reading = _reading(options)
        return check(reading, options.processes) if options.check else convert(reading, options)
    except (ConversionError, SourceError) as error:
        print(f"dataset: {_printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndataset: stopped; the same command goes on where it was", file=sys.stderr)
        return 130


def convert(reading: Reading, options: argparse.Namespace) -> int:
    """Write a split as the options say; 1 when it is --strict and there are defects."""
    target = reading.target(options.out)
    target.begin(reading.job(), overwrite=options.overwrite)
    if options.beam is not None:
        _with_beam(reading, target, options.beam.split())
    else:
        _with_processes(reading, target, options.processes)
    report = target.add_up(len(reading.keys))
    _say_counts(report.counts, report.num_keys)
    _say_defects(report.defects, target.defects_file)
    if report.defects and options.strict:
        print(f"{target.folder}: left unfinished (--strict)", file=sys.stderr)
        return 1
    if not sum(report.shard_lengths):
        raise ConversionError(
            f"{target.folder}: no picture gave a record, so it is left unfinished; "
            "put --source right, then give --overwrite"
        )
    target.publish(report)
    gigabytes = report.num_bytes / 1e9
    print(f"{target.folder}: {len(report.shard_lengths)} shards, {gigabytes:.2f} GB")
    return 0


def check(reading: Reading, processes: int) -> int:
    """Read a split and name every defect; 1 when there are any."""
    counts: Counter[str] = Counter()
    defects: list[Defect] = []
    with tqdm(total=len(reading.keys), unit=" pictures", disable=None) as bar:
        work, indices = partial(check_shard, reading), list(range(reading.num_shards))
        tally: Tally
        for tally in over_shards(work, indices, processes, bar.update):
            counts += tally.counts
            defects += tally.defects
    for kind, where in sorted(defects, key=lambda defect: _by_number(defect.where)):
        print(_printable(f"{where} ({kind})"))
    _say_counts(counts, len(reading.keys))
    print(f"{len(defects)} defects")
    return int(bool(defects))


def _reading(options: argparse.Namespace) -> Reading:
    make_source = find_dataset(options.name)
    if not options.source.exists():
        raise SourceError(f"{options.source}: no such folder or file")
    return Reading(make_source, options.source, options.split, options.shards)


def _with_processes(reading: Reading, target: SplitFolder, processes: int) -> None:
    finished = [target.finished(index) for index in range(target.num_shards)]
    done = sum(report.num_keys for report in finished if report is not None)
    missing = [index for index, report in enumerate(finished) if report is None]
    work = partial(write_shard, reading, target)
    with tqdm(total=len(reading.keys), initial=done, unit=" pictures", disable=None) as bar:
        for _ in over_shards(work, missing, processes, bar.update):
            pass


def _with_beam(reading: Reading, target: SplitFolder, options: Sequence[str]) -> None:
    try:
        import apache_beam as beam  # pyright: ignore[reportMissingImports]  # an extra

        from glamm_jax.data.beam import WriteShards
    except ImportError as error:
        raise ConversionError("--beam needs apache-beam: pip install 'glamm-jax[beam]'") from error
    pipeline_options = beam.options.pipeline_options.PipelineOptions(list(options))
    with beam.Pipeline(options=pipeline_options) as pipeline:
        _ = pipeline | WriteShards(reading, target)


def _say_counts(counts: Mapping[str, int], num_keys: int) -> None:
    records, regions = counts.get("records", 0), counts.get("regions", 0)
    by_task = [f"{task} {counts[task]}" for task in TASKS if counts.get(task)]
    print(f"{records} records of {num_keys} pictures: {', '.join(by_task) or 'nothing said'}")
    masks, boxes = counts.get("masks", 0), counts.get("boxes", 0)
    print(f"{regions} regions, {masks} with a mask, {boxes} with a box")


def _say_defects(defects: Mapping[str, Sequence[str]], file: Path) -> None:
    """A short table: how many of a kind, and where the first of them are."""
    for kind, places in defects.items():
        for i, where in enumerate(places[:EXAMPLES]):
            head = f"{len(places):7}  {kind:34}" if i == 0 else " " * 43
            print(_printable(f"{head}  {where}"[:TABLE_WIDTH]))
    if defects:
        print(f"all defects by name: {file} (put right? convert anew with --overwrite)")


def _printable(text: str) -> str:
    """Without what a terminal cannot show, such as half a character."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _by_number(where: str) -> list[str]:
    """A key that sorts line 9 before line 10. Odd places are numbers."""
    parts = re.split(r"(\d+)", where)
    return [part.rjust(20, "0") if i % 2 else part for i, part in enumerate(parts)]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
