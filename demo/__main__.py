"""The demo: from the rendering of a new world to a model trained on it, in about ten minutes.

examples:
  python -m demo                                         # writes out/demo and demo-report.json
  python -m demo --out out/other --report other.json

  1 render    scenes with a shape and a ground that the model has never seen, in GranD's format
  2 convert   them to record shards, as `glamm-jax convert dataset` converts GranD itself
  3 before    evaluate grounded captions, referring expressions and regions on held-out scenes,
              with the model that ships with this repository (checkpoints/miniworld-tiny)
  4 train     the parameter set `released` on the new scenes, about three minutes
  5 after     evaluate the trained model in the same way
  6 gallery   images with masks, texts with coloured phrases, metrics

Every step is a command that is printed before it runs and can be run by itself. Finished steps are
skipped, so the same command resumes an interrupted demo.

Exit status: 0 success, 1 a step failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from demo.gallery import METRICS, WHEN, read_metrics, write_gallery
from glamm_jax.cli.program import this_machine
from glamm_jax.cli.steps import Step, run_steps
from glamm_jax.evaluation.items import EvaluationData
from glamm_jax.evaluation.scores import SCORES
from glamm_jax.files import write_atomic

WORLD, IMAGE_SIZE = "easy-new", 64
TRAINING, EVALUATION = ("training", 1500, 31), ("held-out", 60, 32)  # name, scenes, seed
SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "checkpoints" / "miniworld-tiny"
SHARDS = "glamm_grand/1.0.0"
NEXT = """What to do next:
  glamm-jax ask --scene 5              answer questions about other scenes with the shipped model
  glamm-jax convert dataset --help     convert your own images (docs/your-data.md)
  glamm-jax train --help               train a model on them (configs/finetune_own.py)"""


class Clock:
    """Run time of the demo in seconds, over all commands that resumed it.

    Args:
        path: file that stores the seconds between two commands.
        since: start of this command, in seconds since the epoch.
    """

    def __init__(self, path: Path, since: float):
        self._path, self._since = path, since
        self._before = float(path.read_text()) if path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """The seconds of this command and of all previous ones."""
        return self._before + time.time() - self._since

    def save(self) -> None:
        """Store the seconds for a command that resumes the demo."""
        write_atomic(self._path, f"{self.seconds:.1f}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the steps, write the gallery and the report; returns the exit status."""
    options = parse(arguments)
    clock = Clock(options.out / "seconds", options.since or time.time())
    failed = run_steps(steps(options.out), options.out, clock.save)
    if failed is not None:
        print(f"demo: step {failed} failed; the same command resumes there", file=sys.stderr)
        return 1
    minutes = round(clock.seconds / 60, 2)
    page = write_gallery(options.out, evaluation_data(options.out), minutes)
    report = {"minutes": minutes, **{when: read_metrics(options.out, when) for when in WHEN}}
    write_atomic(options.report, json.dumps(report, indent=1) + "\n")
    print(f"\nafter {minutes} minutes: {page}\nmetrics: {options.report}\n{NEXT}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--out",
        type=this_machine,
        default=Path("out/demo"),
        help="folder of all files (%(default)s)",
    )
    add(
        "--report",
        type=this_machine,
        default=Path("demo-report.json"),
        help="JSON file of the metrics (%(default)s)",
    )
    add("--since", type=float, help="start of the measured time, in seconds since the epoch")
    return parser.parse_args(arguments)


def steps(out: Path) -> Iterator[Step]:
    """Yield all steps, in order."""
    for name, num_scenes, seed in (TRAINING, EVALUATION):
        world = ("--world", WORLD, "--size", str(IMAGE_SIZE), "--format", "grand")
        count = ("--scenes", str(num_scenes), "--seed", str(seed))
        folder = out / f"{name}-world"
        command = ("convert", "miniworld", *world, *count, "--out", str(folder))
        yield Step(f"Render {num_scenes} scenes ({name}) in GranD's format", command, folder)
        shards = out / name
        source = ("--source", str(folder), "--out", str(shards))
        output = shards / SHARDS / "dataset_info.json"
        yield Step(
            "Convert them to record shards", ("convert", "dataset", "grand", *source), output
        )
    yield from evaluations(out, "before", SHIPPED_MODEL)
    run_folder, model = out / "run", out / "model"
    data = f"data.mixture.0.dataset={out / TRAINING[0] / SHARDS}"
    train = ("train", "--config", "configs/adapt.py", "--out", str(run_folder), "--set", data)
    yield Step("Train adapters, embeddings, region encoder and mask decoder", train, model)
    export = ("train.export", str(run_folder), "--out", str(model))
    yield Step("Export the run to a model folder", export, model)
    yield from evaluations(out, "after", model)


def evaluation_data(out: Path) -> EvaluationData:
    """Return the held-out scenes. GranD has no split other than train."""
    return EvaluationData(str(out / EVALUATION[0] / SHARDS), "train")


def evaluations(out: Path, when: str, model: Path) -> Iterator[Step]:
    """Yield the evaluations of a model on the held-out scenes.

    Args:
        out: folder of the demo.
        when: before or after training.
        model: its folder.
    """
    data = evaluation_data(out)
    for benchmark in METRICS:
        folder = out / when / benchmark
        generation = ("--question", "ours", "--tokens", "64", "--batch", "30")
        yield Step(
            f"Evaluate {benchmark} on held-out scenes, {when} training",
            (
                *("eval", benchmark, "--data", data.path, "--split", data.split),
                *(*generation, "--similarity", "words"),
                *("--model", str(model), "--out", str(folder)),
            ),
            folder / SCORES,
        )


if __name__ == "__main__":
    sys.exit(main())
