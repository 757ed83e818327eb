"""Compare two evaluations of one benchmark: metrics, intervals, and the items that changed most.

examples:
  glamm-jax compare out/before out/after
  glamm-jax compare out/before out/after --out page.html

A and B are folders that `glamm-jax eval` wrote, of the same benchmark, split and data. The table
shows B minus A with the interval of a paired bootstrap over the items. What else differs is warned
of: weights, prompt, sampling, preset, dtype, longest answer, seed. The page also shows the
items that changed most, with images if the data of B can still be read.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import glamm_jax.miniworld  # noqa: F401  # registers the scheme miniworld/NAME
from glamm_jax.cli.program import any_path, make_parser, run_program
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Item
from glamm_jax.evaluation.compare import compare_scores, comparison_text
from glamm_jax.evaluation.comparison_page import ComparedRun, write_comparison
from glamm_jax.evaluation.evaluation_run import CONFIG
from glamm_jax.evaluation.item_cards import LoadImage, image_loader
from glamm_jax.evaluation.items import EvaluationData, ItemsError, open_items
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines
from glamm_jax.evaluation.provenance import provenance_warnings, several_runs
from glamm_jax.evaluation.scores import SCORES, ScoresError, load_scores
from glamm_jax.json_files import JSONError, read_object
from glamm_jax.storage import AnyPath, size_of


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax compare") -> int:
    """Print the table, and write the page if requested; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("compare", lambda: compare(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax compare") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    parser.add_argument("a", type=any_path, metavar="A", help="folder of the first evaluation")
    parser.add_argument("b", type=any_path, metavar="B", help="folder of the second evaluation")
    parser.add_argument("--out", type=any_path, metavar="PAGE", help="web page to write")
    return parser.parse_args(arguments)


def compare(options: argparse.Namespace) -> None:
    """Compare the two evaluations that the parsed command line names."""
    a, b = (_read_run(folder) for folder in (options.a, options.b))
    print(f"A: {a.name}\nB: {b.name}\n")
    print(comparison_text(compare_scores(a.scores, b.scores)))
    similarities = [run.scores.similarity for run in (a, b)]
    if similarities[0] != similarities[1]:
        print(
            "Different scorers of phrases, so the recalls are not comparable: "
            f"{similarities[0]}; {similarities[1]}"
        )
    for line in [*provenance_warnings(a.config, b.config), *_mixed(a), *_mixed(b)]:
        print(f"warning: {line}")
    if options.out:
        items, load_image = _open_items(b)
        write_comparison(options.out, a, b, items, load_image)
        print(f"{options.out}: {size_of(options.out) / 1e6:.1f} MB")


def _mixed(run: ComparedRun) -> list[str]:
    """Return a warning if the predictions of a folder were produced by several evaluations."""
    if several_runs(prediction.run for prediction in run.predictions.values()):
        return [f"{run.name}: predictions of several evaluations, with different models or prompts"]
    return []


def _read_run(folder: AnyPath) -> ComparedRun:
    """Read an evaluation's folder, which has scores.json at least."""
    scores = load_scores(folder / SCORES)
    config_path, predictions_path = folder / CONFIG, folder / PREDICTIONS
    config = {}
    if config_path.is_file():
        try:
            config = read_object(config_path).fields
        except JSONError as error:
            raise ScoresError(f"{config_path}: cannot be read: {error}") from error
    predictions = read_lines(predictions_path)[0] if predictions_path.is_file() else []
    return ComparedRun(str(folder), scores, config, {x.id: x for x in predictions})


def _open_items(run: ComparedRun) -> tuple[Mapping[str, Item], LoadImage]:
    """Open the items of an evaluation if its data is unchanged; otherwise print why there are none.

    Returns:
        Items by id, and a function that loads their images.
    """
    try:
        config = run.config
        benchmark = BENCHMARKS[config["benchmark"]]
        prompt = benchmark.prompt_template(config["question"], config["seed"])
        item_set = open_items(benchmark, _parse_data(config["data"]), prompt)
        if item_set.hash != run.scores.data_hash:
            raise ItemsError("the data has changed since the evaluation")
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error)
        print(f"no images: {reason}")

        def fail(item: Item) -> np.ndarray:
            raise ValueError(reason)

        return {}, fail
    return {item.id: item for item in item_set.items}, image_loader(item_set.records)


def _parse_data(fields: Mapping[str, Any]) -> EvaluationData:
    """Convert the data of config.json, where every value is text."""
    types = {"images": Path, "limit": int, "seed": int}
    return EvaluationData(**{name: types.get(name, str)(value) for name, value in fields.items()})


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.compare"))
