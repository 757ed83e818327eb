"""Evaluate a model on a benchmark, or score existing predictions.

examples:
  glamm-jax eval gcg --model checkpoints/miniworld-tiny --data miniworld/easy@64 \\
      --similarity words --out out/gcg
  glamm-jax eval table4 --model glamm-refseg --data data --out out/table4
  glamm-jax eval refseg --model glamm --data data --split val testA testB \\
      --dataset refcoco refcoco+ refcocog:val,test --out out/refseg
  glamm-jax eval gcg --predictions DIR --data GranDf/annotations/val_test --out out/scored
  glamm-jax eval compare out/before out/after    # the same as `glamm-jax compare`

table3, table4, table5 and table6 evaluate all datasets and splits of a table of the paper:
`glamm-jax eval table3 --help`.

--data     SCHEME/NAME       records of a registered source, such as miniworld/easy@64: scenes
                             rendered from held-out seeds, without a download
           FOLDER            record shards, written by `glamm-jax convert dataset`
           FOLDER --dataset NAME    a dataset in its original layout, without conversion
           FOLDER or FILE    annotation files of the original's evaluation
                             ({split}_gcg_coco_*_gt.json, COCO captions with boxes, NoCaps,
                             dataset_flickr30k.json, LLaVA-Bench), or the files of the
                             benchmark's own repository (reason_seg, grefcoco, grounding_suite,
                             hallu_seg_bench, chair)

--similarity words needs no model. The default, as in the paper, is a BERT, which the first run
downloads.

Several --data, --dataset or --split: every dataset is evaluated on every split. A dataset or path
followed by :SPLIT,SPLIT has these splits instead. Each evaluation has its own folder OUT/DATA-SPLIT
with the files below; OUT/table.txt, .md and .json have all metrics beside the paper's.

--question selects the prompts: `original`, the prompts that the released checkpoints were trained
with; `ours`, the prompts of this project's training; or a text with {name} for the expression and
{regions} for the box.

A model that fits one device has a copy on each, and the copies divide the rows of a batch;
otherwise it is spread over all devices. --mesh chooses: `data` counts the copies, `fsdp` and
`tensor` the devices that divide a copy. Each of several processes predicts its own items. With a
mesh that is larger than the devices of one process, it has all devices of all processes, and they
predict every item together.

The same command resumes an interrupted evaluation; finished items are not predicted again.

OUT/config.json        what the predictions depend on: weights, data, prompt, seed, versions
OUT/predictions.jsonl  all predictions; OUT/predictions/ the same in the original's layout
OUT/reviews.jsonl      reviews by the judge of the benchmark `conversation`
OUT/scores.json        metrics of both modes as fractions, and the contribution of each item
OUT/report.html        a report with images: best and worst items, problems

Exit status: 0 success; 2 unusable input; 3 another process was lost or failed.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
from tqdm import tqdm

import glamm_jax.miniworld  # noqa: F401  # registers the scheme miniworld/NAME
from glamm_jax.cli import compare, eval_table
from glamm_jax.cli.evaluation_options import (
    add_generation_arguments,
    caption_metrics,
    load_assistant,
    make_scorers,
    mesh_of,
    score_run,
)
from glamm_jax.cli.processes import add_process_arguments, start_processes
from glamm_jax.cli.program import (
    any_path,
    make_parser,
    model_path,
    positive_int,
    run_program,
    this_machine,
)
from glamm_jax.data.record_sources import find_scheme
from glamm_jax.environment import ALLOW_OUTSIDE, environment_variables
from glamm_jax.errors import ConfigError
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Benchmark
from glamm_jax.evaluation.combined_table import TABLE, write_combined_table
from glamm_jax.evaluation.evaluation_run import (
    CONFIG,
    EXPORT,
    REPORT,
    EvaluationRun,
    GenerationConfig,
)
from glamm_jax.evaluation.items import EvaluationData
from glamm_jax.evaluation.judge_client import JudgePrices
from glamm_jax.evaluation.llm_judge import review_all
from glamm_jax.evaluation.paper_tables import TABLES
from glamm_jax.evaluation.scores import RunScores
from glamm_jax.metrics.captions import check_java
from glamm_jax.storage import AnyPath, to_path

REVIEWS = "reviews.jsonl"


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax eval") -> int:
    """Run the evaluation, that of a table, or `compare`; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else [*arguments]
    if arguments[:1] == ["compare"]:
        return compare.main(arguments[1:], f"{prog} compare")
    if arguments and arguments[0] in TABLES:
        return eval_table.main(arguments, prog)
    options = parse(arguments, prog)
    variables = {ALLOW_OUTSIDE: "1"} if options.allow_outside else {}
    with environment_variables(**variables):  # data workers read it as well
        return run_program("eval", lambda: evaluate(options))


def evaluate(options: argparse.Namespace) -> None:
    """Run the evaluation that the parsed command line describes.

    Everything is checked before the model is loaded, and what takes no time first.
    """
    start_processes("eval", options, options.out)
    mesh = mesh_of(options) if options.model else None
    if options.predictions and not options.predictions.exists():
        raise ConfigError(f"{options.predictions}: no such folder")
    benchmark = BENCHMARKS[options.benchmark]
    check_java(caption_metrics(benchmark, options))
    selected = selected_data(options)
    if len(selected) > 1 and (options.out / CONFIG).is_file():
        raise ConfigError(f"{options.out}: has an evaluation of one split; choose a new folder")
    runs = {name: open_run(benchmark, data, name, options) for name, data in selected.items()}
    scorers, judge = make_scorers(benchmark, options)
    assistant = None if options.predictions else load_assistant(options, mesh)
    scores: dict[str, RunScores] = {}
    for name, run in runs.items():
        with run.lock():
            if assistant is None:
                result = run.read_predictions(_predictions_of(options.predictions, name))
                predictions, problems = result.predictions, result.notes
            else:
                predictions, problems = run.predict(assistant, str(options.model)), {}
            if jax.process_index() == 0:
                if judge is not None:
                    path = options.judge_cache or run.out / REVIEWS
                    review = partial(review_all, judge=judge, path=path, progress=tqdm)
                    scorers = replace(scorers, review=review)
                scores[name] = score_run(run, predictions, problems, scorers)
    if jax.process_index() == 0:
        if judge is not None:
            prices = JudgePrices(*options.judge_price) if options.judge_price else None
            print(f"judge: {judge.usage.describe(prices)}")
        print(benchmark.description)
        if len(scores) > 1:
            print("\n" + write_combined_table(options.out, benchmark, scores), end="")
        page = f"{TABLE}.txt, .md and .json" if len(scores) > 1 else REPORT
        print(f"wrote {options.out}, {options.out / page}")


def selected_data(options: argparse.Namespace) -> dict[str, EvaluationData]:
    """Return the data of each evaluation, by the name of its folder in OUT; "" for a single one.

    Raises:
        ConfigError: several paths and several datasets, or something is named twice.
    """
    paths, datasets = options.data, options.dataset or [""]
    if len(paths) > 1 and len(datasets) > 1:
        raise ConfigError("several --data and several --dataset; name one folder, or one dataset")
    selected: dict[str, EvaluationData] = {}
    for path_text in paths:
        path, path_splits = _with_splits(path_text)
        for dataset_text in datasets:
            dataset, splits = _with_splits(dataset_text)
            for split in splits or path_splits or options.split:
                folder = f"{_data_name(dataset or path)}-{split}"
                name = re.sub(r"[^\w@+.-]+", "_", folder)
                if name in selected:
                    raise ConfigError(f"{name}: more than one evaluation of this name")
                selected[name] = EvaluationData(
                    path, split, dataset, options.images, options.limit, options.seed
                )
    return selected if len(selected) > 1 else dict(zip([""], selected.values(), strict=True))


def _with_splits(text: str) -> tuple[str, list[str]]:
    """Split PATH:SPLIT,SPLIT; a path that exists is taken as it is."""
    path, colon, splits = text.rpartition(":")
    if not colon or to_path(text).exists() or not re.fullmatch(r"\w+(?:,\w+)*", splits):
        return text, []
    return path, splits.split(",")


def _data_name(path: str) -> str:
    """Return a name for a dataset's folder: that of record shards without their version."""
    if find_scheme(path) is not None:
        return path.replace("/", "-")
    location = to_path(path)
    location = location.resolve() if isinstance(location, Path) else location
    parts = [part for part in location.parts if not re.fullmatch(r"\d+(\.\d+)+", part)]
    return parts[-1].removeprefix("glamm_") if "/" in path else location.name


def _predictions_of(folder: AnyPath, name: str) -> AnyPath:
    """Return the folder of one evaluation's predictions; several are laid out as in OUT."""
    if not name:
        return folder
    if not (folder / name).is_dir():
        raise ConfigError(f"{folder}: no folder {name}; each evaluation reads its own folder")
    exported = folder / name / EXPORT
    return exported if exported.is_dir() else folder / name


def open_run(
    benchmark: Benchmark, data: EvaluationData, name: str, options: argparse.Namespace
) -> EvaluationRun:
    """Open the items of one evaluation.

    Args:
        benchmark: to be evaluated.
        data: to evaluate on.
        name: of the folder in OUT; "": OUT itself.
        options: the parsed command line.

    Raises:
        ItemsError, EvaluationError, PromptTemplateError: the data, the folder or the prompt cannot
            be used.
    """
    scheme = find_scheme(data.path)
    prompt = options.question or ("original" if scheme is None else scheme.prompt_style)
    generation = GenerationConfig(prompt, options.tokens, options.batch, options.seed)
    run = EvaluationRun(benchmark, data, options.out / name, generation)
    item_set = run.item_set
    label = f"{name}: " if name else ""
    print(f"{label}{len(item_set.items)} items, data {item_set.hash[:12]}", flush=True)
    return run


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax eval") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    width = max(map(len, BENCHMARKS))
    parser.epilog = "benchmarks:\n" + "\n".join(
        f"  {name.ljust(width)}  {x.description} ({', '.join(x.splits)})"
        for name, x in BENCHMARKS.items()
    )
    add = parser.add_argument
    add("benchmark", choices=BENCHMARKS, metavar="BENCHMARK", help="listed below")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=model_path, help="model folder")
    source.add_argument("--predictions", type=any_path, help="folder of predictions to score")
    add(
        "--data",
        required=True,
        nargs="+",
        metavar="DATA",
        help="SCHEME/NAME, folders or files (see above)",
    )
    add(
        "--out",
        type=any_path,
        required=True,
        help="new folder, or that of an evaluation to resume",
    )
    add("--split", nargs="+", default=["val"], metavar="SPLIT", help="default: val")
    add(
        "--dataset",
        nargs="+",
        default=[],
        metavar="NAME",
        help="--data has the original layout of these datasets",
    )
    add("--images", type=this_machine, help="folder of the images of annotation files")
    add(
        "--allow-outside",
        action="store_true",
        help="permit annotations to name files outside of the folder of the images",
    )
    add("--limit", type=positive_int, metavar="N", help="evaluate the first N images only")
    add_generation_arguments(parser)
    add(
        "--judge",
        metavar="URL",
        help="OpenAI-compatible endpoint, for the benchmark `conversation`",
    )
    add(
        "--judge-cache",
        type=any_path,
        metavar="FILE",
        help="reviews of all evaluations; what it has is not requested again (OUT/reviews.jsonl)",
    )
    add(
        "--judge-price",
        type=float,
        nargs=2,
        metavar=("READ", "WRITTEN"),
        help="prices of a million tokens that the judge reads and writes; prints the cost",
    )
    add("--judge-model", default="gpt-4", metavar="NAME", help="model of the judge (%(default)s)")
    add_process_arguments(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.eval"))
