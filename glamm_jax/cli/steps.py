"""Programs that are a list of commands: each is printed, run in a process, and done only once.

    run_steps([Step("Render a scene", ("convert", "miniworld", ...), out / "world")], out)

The commands share a compilation cache in OUT/compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        title: printed before it runs.
        command: module and arguments for `python -m`.
        output: path that exists when the step is done.
    """

    title: str
    command: tuple[str, ...]
    output: Path


def run_step(step: Step, out: Path) -> bool:
    """Run the command of a step; return whether it succeeded.

    Args:
        step: to be run.
        out: folder of all steps.
    """
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str((out / "compiled").absolute()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    start = time.perf_counter()
    result = subprocess.run([sys.executable, "-m", *step.command], env={**os.environ, **cache})
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)
    return result.returncode == 0


def run_steps(
    steps: Iterable[Step], out: Path, after_step: Callable[[], Any] = lambda: None
) -> int | None:
    """Run the steps that are not done, in order.

    Args:
        steps: to be run.
        out: folder of all steps.
        after_step: called after each command.

    Returns:
        The number of the step that failed, from 1; None if all succeeded.
    """
    steps = [*steps]
    for number, step in enumerate(steps, start=1):
        print(f"\n[{number}/{len(steps)}] {step.title}", flush=True)
        if step.output.exists():
            print("  done already")
            continue
        print(f"  python -m {' '.join(step.command)}", flush=True)
        succeeded = run_step(step, out)
        after_step()
        if not succeeded:
            return number
    return None
