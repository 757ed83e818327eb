"""Train a tiny GLaMM on annotations of the pipeline, and compare it with training on the truth.

examples:
  python -m examples.learn_annotations --out out/annotations
  python -m examples.learn_annotations --out out/hard --noise hard

  1 render    scenes with a shape and a ground that the shipped model has never seen
  2 annotate  them by oracles that err as real models do, with both presets, and without errors
              ("truth"); export them as GranD (1500 scenes) and as GranD_f (200 others)
  3 pretrain  the shipped model on the four tasks, and fine-tune it on GranD_f, at equal budget
  4 evaluate  on held-out scenes, annotated without errors: grounded captions after fine-tuning,
              referring expressions before it, since the fine-tuning has captions alone

Runs: truth, paper, released; "no pretraining" is fine-tuned on the truth's GranD_f alone, with as
many steps as the others together. OUT/report.json and OUT/report.md have the scores.

Every step is a command that is printed before it runs and can be run by itself. Finished steps are
skipped, so the same command resumes. About twenty minutes on two cores.

Exit status: 0 success, 1 a step failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from configs import miniworld_finetune_gcg, miniworld_pretrain
from examples.learn_annotations.report import report_text, run_scores
from glamm_jax.cli.program import this_machine
from glamm_jax.cli.steps import Step, run_steps
from glamm_jax.evaluation.scores import SCORES
from glamm_jax.files import write_atomic

WORLD, IMAGE_SIZE = "easy-new", 64
# Name -> number of scenes and seed.
SCENES = {"grand": (1500, 31), "grandf": (200, 33), "held-out": (200, 32)}
# Run -> preset; None: oracles without errors.
RUNS: dict[str, str | None] = {"truth": None, "paper": "paper", "released": "released"}
NO_PRETRAINING = "no pretraining"
GRAND, GRANDF = "glamm_grand/1.0.0", "glamm_grandf_ha/1.0.0"
BENCHMARKS = ("gcg", "refseg")


def main(arguments: list[str] | None = None) -> int:
    """Run the steps and write the report; returns the exit status."""
    options = parse(arguments)
    out = options.out
    failed = run_steps(steps(out, options.noise), out)
    if failed is not None:
        print(f"step {failed} failed; the same command resumes there", file=sys.stderr)
        return 1
    scores = {name: run_scores(out / "scores" / folder_name(name)) for name in all_runs()}
    write_atomic(out / "report.json", json.dumps(scores, indent=1) + "\n")
    text = report_text(scores)
    write_atomic(out / "report.md", text)
    print(f"\n{text}\n{out / 'report.md'}")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.learn_annotations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=this_machine, default=Path("out/annotations"), help="folder of all files")
    add("--noise", choices=("easy", "hard"), default="easy", help="errors of the oracles")
    return parser.parse_args(arguments)


def all_runs() -> list[str]:
    """Return the names of all runs, in the order of the report."""
    return [*RUNS, NO_PRETRAINING]


def folder_name(run: str) -> str:
    """Return the name of the folder of a run."""
    return run.replace(" ", "-")


def steps(out: Path, noise: str) -> Iterator[Step]:
    """Yield all steps, in order.

    Args:
        out: folder of all files.
        noise: of the oracles.
    """
    roles = {name: out / f"roles-{name}.toml" for name in ("none", noise)}
    out.mkdir(parents=True, exist_ok=True)
    template = Path("configs/annotate/noisy.toml").read_text(encoding="utf-8")
    for name, path in roles.items():
        write_atomic(path, template.replace('noise = "easy"', f'noise = "{name}"'))
    for name, (count, seed) in SCENES.items():
        command = ("annotate", "scenes", str(out / name), "--count", str(count))
        command += ("--seed", str(seed), "--size", str(IMAGE_SIZE), "--world", WORLD)
        yield Step(f"Render {count} scenes ({name})", command, out / name)
    for run, preset in RUNS.items():
        yield from _annotations(out, run, preset or "paper", roles[noise if preset else "none"])
    for run in all_runs():
        yield from _training(out, run)
        yield from _evaluation(out, run)


def _annotations(out: Path, run: str, preset: str, roles: Path) -> Iterator[Step]:
    """Annotate the scenes, and export them; the truth is also that of the held-out scenes."""
    base = out / "annotated" / run
    for name in SCENES if run == "truth" else ("grand", "grandf"):
        folder = base / name
        command = ("annotate", "run", str(out / name / "images"), "--out", str(folder))
        command += ("--roles", str(roles), "--preset", preset, "--allow-failures", "1")
        yield Step(f"Annotate {name}: {run}", command, folder / "graph.json")
    # The released code verifies no caption.
    unverified = ("--unverified-captions",) if preset == "released" else ()
    shards = base / "shards"
    command = ("annotate", "export", str(base / "grand"), "--format", "shards")
    command += ("--out", str(shards), "--name", "grand", *unverified)
    yield Step(f"Export GranD: {run}", command, shards / GRAND / "dataset_info.json")
    if run == "truth":
        command = ("annotate", "export", str(base / "held-out"), "--format", "shards")
        command += ("--out", str(out / "held-out"), "--name", "grand", "--validation-share", "0")
        output = out / "held-out" / GRAND / "dataset_info.json"
        yield Step("Export the held-out scenes", command, output)
    files = base / "grandf-files"
    command = ("annotate", "export", str(base / "grandf"), "--format", "grandf")
    command += ("--out", str(files), "--images", "copy", *unverified)
    yield Step(f"Export GranD_f: {run}", command, files)
    command = ("convert", "dataset", "grandf_ha", "--source", str(files), "--out", str(shards))
    output = shards / GRANDF / "dataset_info.json"
    yield Step(f"Convert GranD_f: {run}", (*command, "--split", "train"), output)


def _training(out: Path, run: str) -> Iterator[Step]:
    """Pretrain and fine-tune, or fine-tune alone with the steps of both."""
    base, name = out / "training", folder_name(run)
    shards = out / "annotated" / ("truth" if run == NO_PRETRAINING else run) / "shards"
    finetune = ["train", "--config", "configs/miniworld_finetune_gcg.py"]
    finetune += ["--set", f"data.mixture.0.dataset={shards / GRANDF}"]
    if run == NO_PRETRAINING:
        total = miniworld_pretrain.STEPS + miniworld_finetune_gcg.STEPS
        finetune += ["--set", f"optim.total_steps={total}"]
    else:
        folder, model = base / f"{name}-pretrain", base / f"{name}-pretrained"
        command = ["train", "--config", "configs/miniworld_pretrain.py", "--out", str(folder)]
        command += ["--set", f"data.mixture.0.dataset={shards / GRAND}"]
        yield Step(f"Pretrain: {run}", tuple(command), model)
        command = ("train.export", str(folder), "--out", str(model))
        yield Step(f"Export the pretrained model: {run}", command, model)
        finetune += ["--set", f"init.model={model}"]
    folder, model = base / f"{name}-finetune", base / f"{name}-finetuned"
    yield Step(f"Fine-tune: {run}", (*finetune, "--out", str(folder)), model)
    command = ("train.export", str(folder), "--out", str(model))
    yield Step(f"Export the fine-tuned model: {run}", command, model)


def _evaluation(out: Path, run: str) -> Iterator[Step]:
    """Evaluate on the held-out scenes: expressions before fine-tuning, captions after it."""
    name = folder_name(run)
    for benchmark in BENCHMARKS:
        is_first = benchmark == "refseg" and run != NO_PRETRAINING
        model = out / "training" / f"{name}-{'pretrained' if is_first else 'finetuned'}"
        folder = out / "scores" / name / benchmark
        command = ("eval", benchmark, "--data", str(out / "held-out" / GRAND), "--split", "train")
        command += ("--question", "ours", "--tokens", "64", "--batch", "50")
        command += ("--similarity", "words", "--model", str(model), "--out", str(folder))
        yield Step(f"Evaluate {benchmark}: {run}", command, folder / SCORES)


if __name__ == "__main__":
    sys.exit(main())
