"""Two runs of one benchmark side by side: figures, differences, intervals, what changed most.

  glamm-jax compare out/before out/after
  glamm-jax compare out/before out/after --out page.html

A and B are folders that `glamm-jax eval` wrote, of the same benchmark, split and data. The table
gives B minus A with the interval of a paired bootstrap over their items. The page also shows the
items that changed most; with their pictures where the data is still where B found it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import glamm_jax.miniworld  # noqa: F401  # registers the datasets miniworld/NAME
from glamm_jax.cli.program import make_parser, run_program
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.compare import as_text, differences
from glamm_jax.evaluation.comparison_page import ComparedRun, write_comparison
from glamm_jax.evaluation.evaluation_run import CONFIG
from glamm_jax.evaluation.item import Item
from glamm_jax.evaluation.item_cards import LoadImage, image_loader
from glamm_jax.evaluation.items import EvaluationData, ItemsError, open_items
from glamm_jax.evaluation.prediction_files import PREDICTIONS, read_lines
from glamm_jax.evaluation.scores import SCORES, ScoresError, load_scores


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax compare") -> int:
    """Print the table, and write a page where one is asked for; returns the exit status."""
    parser = make_parser(prog, __doc__)
    parser.add_argument("one", type=Path, metavar="A", help="folder of an evaluation")
    parser.add_argument("other", type=Path, metavar="B", help="folder of another")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="a web page to write")
    options = parser.parse_args(arguments)
    return run_program("compare", lambda: compare(options))


def compare(options: argparse.Namespace) -> None:
    """Compare the two evaluations that the parsed command line names."""
    one, other = (_side(folder) for folder in (options.one, options.other))
    print(f"A: {one.name}\nB: {other.name}\n")
    print(as_text(differences(one.scores, other.scores)))
    judges = [side.scores.similarity for side in (one, other)]
    if judges[0] != judges[1]:
        print(f"Different judges of phrases, so recalls differ: {judges[0]}; {judges[1]}")
    if options.out:
        items, pictures = _questions(other)
        write_comparison(options.out, one, other, items, pictures)
        print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")


def _side(folder: Path) -> ComparedRun:
    """What a run left; a folder with scores alone will do."""
    scores = load_scores(folder / SCORES)
    told, predictions = folder / CONFIG, folder / PREDICTIONS
    try:
        config = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    except ValueError as error:
        raise ScoresError(f"{told}: cannot be read: {error}") from error
    said = read_lines(predictions)[0] if predictions.is_file() else []
    return ComparedRun(str(folder), scores, config, {each.id: each for each in said})


def _questions(side: ComparedRun) -> tuple[Mapping[str, Item], LoadImage]:
    """The items that a run was asked, if its data is still the same; else why there are none."""
    try:
        config = side.config
        benchmark = BENCHMARKS[config["benchmark"]]
        wording = benchmark.wording(config["question"], config["seed"])
        found = open_items(benchmark, _data(config["data"]), wording)
        if found.hash != side.scores.data_hash:
            raise ItemsError("the data has changed since")
    except (KeyError, TypeError, ValueError) as error:
        return {}, _absent(str(error))
    return {item.id: item for item in found.items}, image_loader(found.records)


def _data(told: Mapping[str, Any]) -> EvaluationData:
    """Data as config.json holds it: every value in words."""
    kinds = {"images": Path, "limit": int, "seed": int}
    return EvaluationData(**{name: kinds.get(name, str)(value) for name, value in told.items()})


def _absent(why: str) -> LoadImage:
    print(f"no pictures: {why}")

    def picture(item: Item) -> np.ndarray:
        raise ValueError(why)

    return picture
