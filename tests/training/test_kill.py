"""A run that is killed at any moment resumes from its latest complete checkpoint, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.training.checkpoint import load_trained_leaves
from glamm_jax.training.run_folder import read_lines

ROOT = Path(__file__).parents[2]
KILLS, STEPS = 50, 1500
COMMAND = [
    *(sys.executable, "-m", "train", "--config", "tests/small_experiment.py", "--set"),
    *("checkpoint.every=2", "checkpoint.keep_last=1", f"optim.total_steps={STEPS}"),
]


def start(run: Path) -> subprocess.Popen:
    environment = os.environ | {"XLA_FLAGS": ""}
    command = [*COMMAND, "--out", str(run)]
    with (run.parent / f"{run.name}.log").open("a") as log:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)


def events(run: Path, *names: str) -> int:
    """Count the events of these names."""
    file = run / "events.jsonl"
    event_names = [line["event"] for line in read_lines(file)] if file.exists() else []
    return sum(event_names.count(name) for name in names)


@pytest.mark.slow
def test_fifty_kills_at_random_moments_lose_nothing(tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert start(unbroken).wait(timeout=1200) == 0
    moments = random.Random(0)
    for _ in range(KILLS):
        num_starts = events(killed, "started", "resumed_from")
        process = start(killed)
        while process.poll() is None and events(killed, "started", "resumed_from") == num_starts:
            time.sleep(0.02)
        try:
            process.wait(timeout=moments.uniform(0, 8))  # it compiles, runs steps, and saves
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) in (0, -signal.SIGKILL), log_of(killed)
    assert start(killed).wait(timeout=1200) == 0, log_of(killed)
    assert events(killed, "started") + events(killed, "resumed_from") > KILLS
    leaves, expected = (load_trained_leaves(run, STEPS)[0] for run in (killed, unbroken))
    for name, value in leaves.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    one, other = (read_lines(run / "metrics.jsonl") for run in (killed, unbroken))
    assert [line["loss"] for line in one] == [line["loss"] for line in other]


def log_of(run: Path) -> str:
    return (run.parent / f"{run.name}.log").read_text()[-3000:]
