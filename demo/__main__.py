"""`python -m demo`: the whole job on two cores, from a world that nobody has seen to a gallery.

  1 draw      scenes with a shape and a ground that the model has never seen, in GranD's format
  2 import    ... to record shards, as `python -m convert dataset` does with GranD itself
  3 before    grounded captions, referring expressions and regions of held-out scenes, by the
              weights that ship with this repository (checkpoints/miniworld-tiny)
  4 learn     the released set of weights learns from the new scenes, some three minutes
  5 after     the same three evaluations of what it has become
  6 gallery   pictures with masks, sentences with coloured phrases, numbers

Every step is a command that is printed, and that works as well by itself. What is done already is
not done again: an interrupted demo goes on. Exit status: 0 done, 1 a step failed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from demo.gallery import FIGURES, WHEN, figures, write_gallery
from glamm_jax.evaluation.items import EvaluationData
from glamm_jax.evaluation.scores import SCORES
from glamm_jax.files import write_atomic

WORLD, PICTURE = "easy-new", 64
TRAINING, HELD_OUT = ("training", 1500, 31), ("held-out", 60, 32)  # scenes, seed
SHIPPED_MODEL = Path(__file__).resolve().parents[1] / "checkpoints" / "miniworld-tiny"
SHARDS = "glamm_grand/1.0.0"
NEXT = """What to do next:
  python -m demo.ask --scene 5                        ask the shipped model about other scenes
  python -m convert dataset --help                    your own pictures (docs/your-data.md)
  python -m train --config configs/finetune_own.py    ... and a model that learns them"""


@dataclass(frozen=True)
class Step:
    """One command of the demo. It is done where `makes` exists."""

    title: str
    command: tuple[str, ...]
    makes: Path


class Clock:
    """Seconds of this command since a second of the epoch, and of those that it goes on from."""

    def __init__(self, path: Path, since: float):
        self._path, self._since = path, since
        self._before = float(path.read_text()) if path.exists() else 0.0

    @property
    def seconds(self) -> float:
        """All of them."""
        return self._before + time.time() - self._since

    def keep(self) -> None:
        """For the next command, should this one be interrupted."""
        write_atomic(self._path, f"{self.seconds:.1f}\n")


def main(arguments: list[str] | None = None) -> int:
    """Run the steps, write the gallery and the report."""
    options = parse(arguments)
    clock = Clock(options.out / "seconds", options.since or time.time())
    todo = list(steps(options.out))
    for number, step in enumerate(todo, start=1):
        print(f"\n[{number}/{len(todo)}] {step.title}", flush=True)
        if step.makes.exists():
            print("  done already")
            continue
        print(f"  python -m {' '.join(step.command)}", flush=True)
        went_well = run(step, options.out)
        clock.keep()
        if not went_well:
            print(f"demo: step {number} failed; the same command goes on there", file=sys.stderr)
            return 1
    minutes = round(clock.seconds / 60, 2)
    page = write_gallery(options.out, held_out(options.out), minutes)
    report = {"minutes": minutes, **{when: figures(options.out, when) for when in WHEN}}
    write_atomic(options.report, json.dumps(report, indent=1) + "\n")
    print(f"\nafter {minutes} minutes: {page}\nfigures: {options.report}\n{NEXT}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("out/demo"), help="folder (%(default)s)")
    add("--report", type=Path, default=Path("demo-report.json"), help="file (%(default)s)")
    add("--since", type=float, help="second of the epoch from which minutes count")
    return parser.parse_args(arguments)


def steps(out: Path) -> Iterator[Step]:
    """All commands, in order."""
    for name, scenes, seed in (TRAINING, HELD_OUT):
        world = ("--world", WORLD, "--size", str(PICTURE), "--format", "grand")
        number = ("--scenes", str(scenes), "--seed", str(seed))
        made = out / f"{name}-world"
        command = ("convert", "miniworld", *world, *number, "--out", str(made))
        yield Step(f"Draw {scenes} scenes ({name}), as GranD stores them", command, made)
        shards = out / name
        source = ("--source", str(made), "--out", str(shards))
        done = shards / SHARDS / "dataset_info.json"
        yield Step("Import them", ("convert", "dataset", "grand", *source), done)
    yield from evaluations(out, "before", SHIPPED_MODEL)
    run_folder, model = out / "run", out / "model"
    data = f"data.mixture.0.dataset={out / TRAINING[0] / SHARDS}"
    learn = ("train", "--config", "configs/adapt.py", "--out", str(run_folder), "--set", data)
    yield Step("Learn the new world: adapters, embeddings, region encoder, decoder", learn, model)
    export = ("train.export", str(run_folder), "--out", str(model))
    yield Step("Make a model of the run", export, model)
    yield from evaluations(out, "after", model)


def held_out(out: Path) -> EvaluationData:
    """The scenes that nobody learns from; GranD has no split but train."""
    return EvaluationData(str(out / HELD_OUT[0] / SHARDS), "train")


def evaluations(out: Path, when: str, model: Path) -> Iterator[Step]:
    """The benchmarks on the held-out scenes."""
    for benchmark in FIGURES:
        folder = out / when / benchmark
        data = ("--data", held_out(out).path, "--split", held_out(out).split)
        asking = ("--question", "ours", "--tokens", "64", "--batch", "30", "--similarity", "words")
        where = ("--model", str(model), "--out", str(folder))
        yield Step(
            f"{when.capitalize()}: {benchmark} of held-out scenes",
            ("eval", benchmark, *data, *asking, *where),
            folder / SCORES,
        )


def run(step: Step, out: Path) -> bool:
    """Run a step's command in this environment; whether it went well."""
    # What one process has compiled the next need not compile again.
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str((out / "compiled").absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", *step.command], env={**os.environ, **cache})
    print(f"  {time.perf_counter() - began:.0f} s", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
