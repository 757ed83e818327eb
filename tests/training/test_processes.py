"""Processes joined by `jax.distributed` give the batches, losses and parameters of one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.training.checkpoint import load_trained_leaves
from glamm_jax.training.run_folder import read_lines
from glamm_jax.training.votes import Votes

ROOT = Path(__file__).resolve().parents[2]
Result = dict[str, np.ndarray]


def run(folder: Path, processes: int, mesh: dict[str, int], **request: Any) -> Result:
    """Run a request in so many processes and return the result of the first."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    out = folder / f"{processes}.npz"
    request |= {"processes": processes, "mesh": mesh, "port": port, "out": str(out)}
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
    started = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.training.one_process",
                json.dumps(request | {"process": n}),
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(processes)
    ]
    try:
        outputs = [process.communicate(timeout=1800)[0] for process in started]
        failed = [n for n, process in enumerate(started) if process.returncode]
        assert not failed, "\n".join(f"process {n}: {outputs[n][-4000:]}" for n in failed)
    finally:
        for process in started:
            process.kill()
            process.wait()
    with np.load(out) as arrays:
        return dict(arrays)


def test_two_processes_make_the_batches_of_one(tmp_path: Path) -> None:
    alone = run(tmp_path, 1, {"fsdp": 4}, do="batch", steps=1)
    together = run(tmp_path, 2, {"fsdp": 4}, do="batch", steps=1)
    assert alone.keys() == together.keys()
    for name, value in alone.items():
        np.testing.assert_array_equal(together[name], value, err_msg=name)


def test_what_one_process_votes_all_read(tmp_path: Path) -> None:
    together = run(tmp_path, 2, {"fsdp": 4}, do="votes", steps=3)
    assert together["results"].tolist() == [[False, False], [True, False], [False, False]]


def test_a_single_process_reads_its_flags_of_now() -> None:
    votes, flags = Votes(), [False]
    votes.cast(lambda: tuple(flags))
    assert votes.result() == (False,)
    flags[0] = True
    assert votes.result() == (True,)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [{"fsdp": 4}, {"data": 2, "tensor": 2}])
def test_two_and_four_processes_train_as_one(tmp_path: Path, mesh: dict[str, int]) -> None:
    alone, two, four = (run(tmp_path, n, mesh, do="train", steps=3) for n in (1, 2, 4))
    losses = [f"loss.{n}" for n in range(3)]
    assert len({float(alone[name]) for name in losses}) == 3
    for together in (two, four):
        for name in losses:
            np.testing.assert_allclose(together[name], alone[name], rtol=1e-5, err_msg=name)
        apart = {name: np.abs(together[name] - value).max() for name, value in alone.items()}
        assert max(apart.values()) < 1e-6, max(apart, key=apart.__getitem__)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Two processes without interruption; or started by two, then resumed by two or by one."""
    steps, mesh = 4, {"data": 2, "fsdp": 2}

    def run_until(name: str, processes: int, until: int) -> Result:
        request = {"do": "run", "run": str(tmp_path / name), "steps": until}
        return run(tmp_path, processes, mesh, **request)

    unbroken = run_until("unbroken", 2, steps)
    run_until("broken", 2, 2)
    shutil.copytree(tmp_path / "broken", tmp_path / "alone")
    again, alone = run_until("broken", 2, steps), run_until("alone", 1, steps)
    expected = load_trained_leaves(tmp_path / "unbroken", steps)[0]
    for name, value in load_trained_leaves(tmp_path / "broken", steps)[0].items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    for name, value in load_trained_leaves(tmp_path / "alone", steps)[0].items():
        np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)
    for loss in ("loss.2", "loss.3"):
        assert again[loss] == unbroken[loss]
        np.testing.assert_allclose(alone[loss], unbroken[loss], rtol=1e-5)
    lines = [line["step"] for line in read_lines(tmp_path / "broken" / "metrics.jsonl")]
    assert lines == list(range(steps))
