"""Train a tiny GLaMM from random weights on the mini-world, in less than an hour on two cores.

Each stage has a folder in OUT with metrics.jsonl (one line per step) and config.json. Finished
stages are not repeated, so an interrupted command continues where it stopped.

  clip, sam               pretraining of the encoders, side by side
  decoder, decoder-mixed  language model, frozen encoders; two kinds of objects never occur
  joint, joint-final      all parameters
  report                  held-out scenes: learn-report.json, learn-report.html, model/

examples:
  python -m examples.learn_miniworld --out out/learn
  python -m examples.learn_miniworld --out out/learn --stage report
  python -m examples.learn_miniworld --out out/learn --adapt

--adapt continues on a world with a new shape and a new place, with the parameter set `released`
and with all parameters, and compares the two.

Exit status: 0 done, 1 a stage failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

# By default, glibc returns large arrays to the system and requests them again in every step.
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
# The stages of a group run side by side.
LEARN = (("clip", "sam"), ("decoder",), ("decoder-mixed",), ("joint",), ("joint-final",))
ADAPT = (("adapted-released", "adapted-all"),)
REPORTS = ("report", "adaptation-report")  # run as stages
SHOWN = ("loss", "ce", "bce", "dice", "colour_accuracy", "shape_accuracy", "iou")


def main(arguments: list[str] | None = None) -> int:
    """Run the stages that are not done, each in a process of its own; return the exit status."""
    options = parse(arguments)
    if options.stage:
        return run_one(options.out, options.stage)
    for group in ADAPT if options.adapt else LEARN:
        if not run_group(options.out, group):
            return 1
    return run_one(options.out, REPORTS[options.adapt])


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.learn_miniworld",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the stages")
    parser.add_argument(
        "--adapt", action="store_true", help="continue on another world, from OUT/joint-final"
    )
    parser.add_argument("--stage", metavar="NAME", help="run only this stage, in this process")
    return parser.parse_args(arguments)


def run_group(out: Path, names: tuple[str, ...]) -> bool:
    """Run stages side by side, each on cores of its own; return whether all succeeded."""
    cores = sorted(os.sched_getaffinity(0))
    processes = []
    for i, name in enumerate(names):
        command = [sys.executable, "-m", "examples.learn_miniworld"]
        command += ["--out", str(out), "--stage", name]
        process = subprocess.Popen(command, env={**os.environ, **MALLOC})
        os.sched_setaffinity(process.pid, {cores[i % len(cores)]} if len(names) > 1 else cores)
        processes.append(process)
    statuses = [process.wait() for process in processes]
    return not any(statuses)


def run_one(out: Path, name: str) -> int:
    """Run a stage or a report in this process; return the exit status."""
    from examples.learn_miniworld import report, stages  # import jax: the parent does without

    if name in REPORTS:
        write = report.report_learning if name == REPORTS[0] else report.report_adaptation
        content = write(out)
        print(json.dumps(content.get("metrics", content), indent=1))
        return 0
    by_name = stages.all_stages()
    if name not in by_name:
        print(
            f"examples.learn_miniworld: no stage {name!r}; "
            f"there are {', '.join((*by_name, *REPORTS))}",
            file=sys.stderr,
        )
        return 2
    stage = by_name[name]
    if stages.is_done(out, stage):
        print(f"{name}: already done")
        return 0
    records = tqdm(stages.run_stage(out, stage), total=stage.steps, desc=name, mininterval=5)
    for record in records:
        shown = {key: record[key] for key in SHOWN if key in record}
        records.set_postfix_str(" ".join(f"{k} {v:.3f}" for k, v in shown.items()), refresh=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
