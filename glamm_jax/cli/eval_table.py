"""Evaluate a table of the paper: all of its datasets and splits, one page.

examples:
  glamm-jax eval table3 --model glamm-gcg --data data --out out/table3
  glamm-jax eval table4 --model glamm-refseg --data data --out out/table4
  glamm-jax eval table4 --model glamm-refseg --data data --only refcoco refcocog-val --limit 100 \\
      --out out/first-look
  glamm-jax eval table5 --model glamm-regcap-vg --data data --only visual_genome --out out/table5
  glamm-jax eval table6 --model glamm --data data --captions CIDEr SPICE --out out/table6

table3     grounded conversation generation, GranD_f val and test
table4     referring segmentation, all splits of refCOCO, refCOCO+ and refCOCOg
table5     region captioning, refCOCOg and Visual Genome
table6     image captioning, NoCaps and Flickr30k

--data is the folder of all data in the layout of the original (docs/datasets.md). What is missing
there is named at the end; the other datasets and splits are evaluated, and the exit status is 4.

The command prints the released checkpoint that the rows of the paper are of. Where datasets have
different checkpoints (table 5), evaluate them one after the other with --only and the same --out:
the page has everything that is finished in OUT, each with its model.

The same command resumes an interrupted evaluation. Finished items are not predicted again, and
finished datasets are not scored again.

OUT/NAME/        one evaluation, as `glamm-jax eval` writes it; NAME is that of --only
OUT/tableN.html  the page: our results, the paper's rows, those of other publications with source
                 and setting, bootstrap intervals, and the worst items with images
OUT/table.txt    our results beside the paper's rows; also .md and .json

Exit status: 0 success; 2 unusable input; 3 another process was lost or failed; 4 some data is
missing, the rest is evaluated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence

import jax

from glamm_jax.cli.evaluation_options import (
    add_generation_arguments,
    caption_metrics,
    load_assistant,
    make_scorers,
    mesh_of,
    score_run,
)
from glamm_jax.cli.processes import add_process_arguments, start_processes
from glamm_jax.cli.program import any_path, make_parser, model_path, positive_int, run_program
from glamm_jax.environment import ALLOW_OUTSIDE, environment_variables
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import TextScorers
from glamm_jax.evaluation.combined_table import TABLE, write_combined_table
from glamm_jax.evaluation.evaluation_run import CONFIG, EvaluationRun, GenerationConfig
from glamm_jax.evaluation.item_cards import image_loader
from glamm_jax.evaluation.items import ItemsError
from glamm_jax.evaluation.paper_tables import TABLES, TableEntry
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines
from glamm_jax.evaluation.scores import SCORES, RunScores, load_scores
from glamm_jax.evaluation.table_page import EvaluatedEntry, write_table_page
from glamm_jax.inference.chat import Assistant
from glamm_jax.json_files import JSONError, read_object
from glamm_jax.metrics.captions import check_java

MISSING_DATA = 4  # exit status


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax eval") -> int:
    """Evaluate a table; returns the exit status."""
    options = parse(arguments, prog)
    variables = {ALLOW_OUTSIDE: "1"} if options.allow_outside else {}
    with environment_variables(**variables):
        return run_program("eval", lambda: evaluate_table(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax eval") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    add = parser.add_argument
    add("table", choices=TABLES, metavar="TABLE", help=", ".join(TABLES))
    add("--model", type=model_path, required=True, help="model folder")
    add("--data", required=True, metavar="ROOT", help="folder of all data")
    add("--out", type=any_path, required=True, help="new folder, or that of the same table")
    add(
        "--only",
        nargs="+",
        default=[],
        metavar="NAME",
        help="datasets, or datasets with a split, such as refcoco+ or refcocog-val",
    )
    add("--limit", type=positive_int, metavar="N", help="evaluate the first N images of each")
    add(
        "--allow-outside",
        action="store_true",
        help="permit annotations to name files outside of the folder of the images",
    )
    add_generation_arguments(parser, captions=None)
    add_process_arguments(parser)
    options = parser.parse_args(arguments)
    if options.captions is None:
        options.captions = TABLES[options.table].metrics
    return options


def evaluate_table(options: argparse.Namespace) -> int:
    """Run the evaluations that the parsed command line describes; returns the exit status.

    Raises:
        ItemsError: none of the data can be read.
    """
    start_processes("eval", options, options.out)
    table = TABLES[options.table]
    benchmark = BENCHMARKS[table.benchmark]
    entries = table.select(options.only)
    mesh = mesh_of(options)
    check_java(caption_metrics(benchmark, options))
    scorers, _ = make_scorers(benchmark, options)
    runs: dict[str, EvaluationRun] = {}
    missing: dict[str, str] = {}
    for entry in entries:
        try:
            runs[entry.name] = _open_run(entry, options)
            items = len(runs[entry.name].item_set.items)
            print(f"{entry.name}: {items} items; released checkpoint: {entry.checkpoint}")
        except ItemsError as error:
            missing[entry.name] = str(error)
            print(f"{entry.name}: not evaluated: {error}", flush=True)
    if not runs:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
        raise ItemsError(f"none of the data of {options.table} can be read: {reasons}")
    assistant = load_assistant(options, mesh)
    scores: dict[str, RunScores] = {}
    for name, run in runs.items():
        result = _evaluate(run, assistant, scorers, str(options.model))
        if result is not None:
            scores[name] = result
    if jax.process_index() == 0:
        evaluated = _all_finished(options, runs, scores)
        page = options.out / f"{options.table}.html"
        write_table_page(page, table, evaluated, missing)
        table_text = write_combined_table(
            options.out, benchmark, {name: x.scores for name, x in evaluated.items()}
        )
        print(f"\n{benchmark.description}\n\n{table_text}", end="")
        print(f"wrote {page}, {options.out / TABLE}.txt, .md and .json")
        for name, reason in missing.items():
            print(f"eval: missing: {name}: {reason}", file=sys.stderr)
    return MISSING_DATA if missing else 0


def _open_run(entry: TableEntry, options: argparse.Namespace) -> EvaluationRun:
    benchmark = BENCHMARKS[TABLES[options.table].benchmark]
    generation = GenerationConfig(
        options.question or "original", options.tokens, options.batch, options.seed
    )
    data = entry.data(options.data, options.limit, options.seed)
    return EvaluationRun(benchmark, data, options.out / entry.name, generation)


def _evaluate(
    run: EvaluationRun, assistant: Assistant, scorers: TextScorers, model: str
) -> RunScores | None:
    """Predict and score what is not finished; None in processes other than the first."""
    with run.lock():
        predictions = run.predict(assistant, model)
        if jax.process_index() > 0:
            return None
        finished = run.finished_scores(scorers)
        return finished or score_run(run, predictions, {}, scorers)


def _all_finished(
    options: argparse.Namespace,
    runs: Mapping[str, EvaluationRun],
    scores: Mapping[str, RunScores],
) -> dict[str, EvaluatedEntry]:
    """Return the evaluations of this command and the others of the table that OUT has.

    What cannot be shown is printed with the reason.
    """
    evaluated = {}
    for entry in TABLES[options.table].entries:
        folder = options.out / entry.name
        own = scores.get(entry.name)
        if own is None and (entry.name in runs or not (folder / SCORES).is_file()):
            continue
        run = runs.get(entry.name)
        result = own or load_scores(folder / SCORES)
        try:
            config = read_object(folder / CONFIG).fields
            run = run or _open_run(entry, options)
            is_same = run.item_set.hash == result.data_hash
            items, load_image = run.item_set.items, image_loader(run.item_set.records)
        except (JSONError, ItemsError) as error:
            print(f"{entry.name}: finished before, not shown: {error}")
            continue
        if not is_same:
            print(f"{entry.name}: finished before with other data or another limit, not shown")
            continue
        predictions = {x.id: x for x in read_lines(folder / PREDICTIONS)[0]}
        evaluated[entry.name] = EvaluatedEntry(
            entry, result, config, items, predictions, load_image
        )
    return evaluated


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.eval_table"))
