"""Two runs of one benchmark side by side: figures, differences, intervals, what changed most.

  python -m eval compare out/before out/after
  python -m eval compare out/before out/after --out page.html

A and B are folders that `python -m eval` wrote, of the same benchmark, split and data. The table
gives B minus A with the interval of a paired bootstrap over their items. The page also shows the
items that changed most; with their pictures where the data is still where B found it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.compare import CompareError, as_text, differences
from glamm_jax.evaluation.comparison_page import Side, write_comparison
from glamm_jax.evaluation.evaluation_run import CONFIG
from glamm_jax.evaluation.item import Item
from glamm_jax.evaluation.item_cards import Pictures, pictures_of
from glamm_jax.evaluation.items import Data, QuestionsError, open_questions
from glamm_jax.evaluation.prediction_files import PREDICTIONS, PredictionError, read_lines
from glamm_jax.evaluation.scores import SCORES, ScoresError, load_scores


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and write the page where one is asked for; 2 when that is impossible."""
    parser = argparse.ArgumentParser(
        prog="python -m eval compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("one", type=Path, metavar="A", help="folder of a run")
    parser.add_argument("other", type=Path, metavar="B", help="folder of another")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="a web page to write")
    options = parser.parse_args(arguments)
    try:
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
    except (CompareError, OSError, PredictionError, ScoresError) as error:
        print(f"eval compare: {error}", file=sys.stderr)
        return 2
    return 0


def _side(folder: Path) -> Side:
    """What a run left; a folder with scores alone will do."""
    scores = load_scores(folder / SCORES)
    told, predictions = folder / CONFIG, folder / PREDICTIONS
    try:
        config = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    except ValueError as error:
        raise ScoresError(f"{told}: cannot be read: {error}") from error
    said = read_lines(predictions)[0] if predictions.is_file() else []
    return Side(str(folder), scores, config, {each.id: each for each in said})


def _questions(side: Side) -> tuple[Mapping[str, Item], Pictures]:
    """The items that a run was asked, if its data is still the same; else why there are none."""
    try:
        config = side.config
        benchmark = BENCHMARKS[config["benchmark"]]
        wording = benchmark.wording(config["question"], config["seed"])
        found = open_questions(benchmark, _data(config["data"]), wording)
        if found.hash != side.scores.data_hash:
            raise QuestionsError("the data has changed since")
    except (KeyError, TypeError, ValueError) as error:
        return {}, _absent(str(error))
    return {item.id: item for item in found.items}, pictures_of(found.records)


def _data(told: Mapping[str, Any]) -> Data:
    """Data as config.json holds it: every value in words."""
    kinds = {"images": Path, "limit": int, "size": int, "seed": int}
    return Data(**{name: kinds.get(name, str)(value) for name, value in told.items()})


def _absent(why: str) -> Pictures:
    print(f"no pictures: {why}")

    def picture(item: Item) -> np.ndarray:
        raise ValueError(why)

    return picture


if __name__ == "__main__":
    sys.exit(main())
