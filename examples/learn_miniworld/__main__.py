"""The tiny model learns the mini-world from nothing, in minutes on two CPU cores.

Stages, each in a folder of its own below OUT; one that is done is not repeated, so a run that was
interrupted goes on where it stopped (an aid at its beginning):

  tags, masks    pretraining aids of CLIP and of SAM, side by side
  first          the decoder learns to speak, of colours that occur on every shape
  speak          ... and of the world, in which two kinds never occur
  whole, polish  everything learns together
  scores         200 held-out scenes, greedy: learn-report.json, learn-report.html, model/

  python -m examples.learn_miniworld --out out/learn
  python -m examples.learn_miniworld --out out/learn --adapt     a world with a new shape:
                                                    the released set against everything

Every stage has metrics.jsonl (a line a step) and config.json.

Exit status: 0 done, 1 a stage failed, 2 OUT cannot be used.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

# glibc gives large arrays back to the system and asks for them again, step by step, unless told.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
LEARN = (
    ("tags", "masks"),
    ("first",),
    ("speak",),
    ("whole",),
    ("polish",),
)  # those of a group run side by side
ADAPT = (("adapted", "retrained"),)
SHOWN = ("loss", "ce", "bce", "dice", "colour_right", "shape_right", "iou")
REPORT = "learn-report.json"


def main(arguments: list[str] | None = None) -> int:
    """Run what is not done yet; each stage is a process of its own."""
    options = parse(arguments)
    if options.stage:
        return run_one(options.out, options.stage)
    groups = ADAPT if options.adapt else LEARN
    for group in groups:
        if not run_group(options.out, group):
            return 1
    return run_one(options.out, "adapt-scores" if options.adapt else "scores")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.learn_miniworld",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="OUT")
    parser.add_argument("--adapt", action="store_true", help="the second world, from OUT/polish")
    parser.add_argument("--stage", metavar="NAME", help="only this stage, in this process")
    return parser.parse_args(arguments)


def run_group(out: Path, names: tuple[str, ...]) -> bool:
    """Run stages as processes, side by side; whether all of them are done."""
    cores = sorted(os.sched_getaffinity(0))
    running = []
    for i, name in enumerate(names):
        command = [
            sys.executable,
            "-m",
            "examples.learn_miniworld",
            "--out",
            str(out),
            "--stage",
            name,
        ]
        own = {cores[i % len(cores)]} if len(names) > 1 else set(cores)
        process = subprocess.Popen(command, env={**os.environ, **MALLOC})
        os.sched_setaffinity(process.pid, own)
        running.append(process)
    codes = [process.wait() for process in running]
    return not any(codes)


def run_one(out: Path, name: str) -> int:
    """One stage, or the scores, in this process."""
    from examples.learn_miniworld import stages  # imports jax: the conductor does without

    if name in ("scores", "adapt-scores"):
        from examples.learn_miniworld.scoring import score, score_adapted

        (score if name == "scores" else score_adapted)(out, out / REPORT)
        return 0
    known = stages.all_stages()
    if name not in known:
        print(
            f"examples.learn_miniworld: no stage {name!r}; there are {', '.join(known)}",
            file=sys.stderr,
        )
        return 2
    stage = known[name]
    if stages.is_done(out, stage):
        print(f"{name}: done already")
        return 0
    records = tqdm(stages.run_stage(out, stage), total=stage.steps, desc=name, mininterval=5)
    for record in records:
        shown = {name: record[name] for name in SHOWN if name in record}
        records.set_postfix_str(" ".join(f"{k} {v:.3f}" for k, v in shown.items()), refresh=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
