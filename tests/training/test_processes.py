"""`python -m train` in several processes: one run, stopped, killed and resumed as a whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.cli.processes import LOST
from glamm_jax.training.checkpoint import load_trained_leaves
from glamm_jax.training.run_folder import checkpoint_folders, read_lines
from glamm_jax.training.votes import Votes
from tests.free_port import free_port

ROOT = Path(__file__).resolve().parents[2]
DEVICES = 4  # of all processes together, so that the mesh is the same
TIMEOUT = 1200  # seconds; other programs may use the processors as well
# The larger eps: AdamW turns even a gradient of nothing but rounding errors into a full step.
SETTINGS = (
    "data.batch_slices=4",
    "mesh.data=0",
    "mesh.devices=0",
    "checkpoint.every=2",
    "optim.eps=1e-3",
)
VALIDATION = (
    *("validation.every=2", "validation.dataset=miniworld/easy@32", "validation.num_examples=2"),
    *("validation.max_tokens=2", "validation.num_panels=1"),
)


class Started:
    """The processes of a run, and what they printed on their terminals."""

    def __init__(self, run: Path, count: int, *settings: str, steps: int | None = None):
        flags = f"--xla_force_host_platform_device_count={DEVICES // count}"
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_backend_optimization_level=0",
        }
        command = [
            *(sys.executable, "-m", "train", "--config", "tests/small_experiment.py"),
            *("--out", str(run), "--set", *SETTINGS, *settings),
            *(("--steps", str(steps)) if steps else ()),
        ]
        if count > 1:
            command += ["--coordinator", f"localhost:{free_port()}", "--processes", str(count)]
        self.terminals = [run.parent / f"{run.name}-{index}.txt" for index in range(count)]
        self.processes: list[subprocess.Popen] = []
        for index, terminal in enumerate(self.terminals):
            own = ["--process", str(index)] if count > 1 else []
            with terminal.open("w") as file:
                process = subprocess.Popen(
                    [*command, *own], cwd=ROOT, env=environment, stdout=file, stderr=file
                )
            self.processes.append(process)

    def wait(self, seconds: float = TIMEOUT) -> list[int]:
        """Return the exit statuses."""
        deadline = time.monotonic() + seconds
        return [each.wait(deadline - time.monotonic()) for each in self.processes]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition while the processes run."""
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert all(each.poll() is None for each in self.processes), self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.05)

    def text(self) -> str:
        return "\n".join(file.read_text()[-4000:] for file in self.terminals)

    def end(self) -> None:
        for each in self.processes:
            each.kill()
            each.wait()


@contextmanager
def started(run: Path, count: int, *settings: str, steps: int | None = None) -> Iterator[Started]:
    processes = Started(run, count, *settings, steps=steps)
    try:
        yield processes
    finally:
        processes.end()


def finish(run: Path, count: int, *settings: str, steps: int | None = None) -> None:
    """Run until it ends by itself."""
    with started(run, count, *settings, steps=steps) as processes:
        assert processes.wait() == [0] * count, processes.text()


def num_steps(run: Path) -> int:
    file = run / "metrics.jsonl"
    return len([*read_lines(file)]) if file.exists() else 0


def events(run: Path, name: str) -> list[dict]:
    file = run / "events.jsonl"
    return [x for x in read_lines(file) if x["event"] == name] if file.exists() else []


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read_lines(run / "metrics.jsonl")]


def assert_same_bits(run: Path, other: Path, step: int) -> None:
    assert losses(run) == losses(other)
    leaves, expected = (load_trained_leaves(each, step)[0] for each in (run, other))
    for name, value in leaves.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_single_process_reads_its_flags_of_now() -> None:
    votes, flags = Votes(), [False]
    votes.cast(lambda: tuple(flags))
    assert votes.result() == (False,)
    flags[0] = True
    assert votes.result() == (True,)


@pytest.mark.slow
def test_two_processes_train_validate_and_stop_together(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(run, 2, *VALIDATION) as processes:
        processes.wait_until(lambda: num_steps(run) >= 3)
        processes.processes[1].send_signal(signal.SIGTERM)
        assert processes.wait() == [0, 0], processes.text()
        first, second = (file.read_text() for file in processes.terminals)
    done = num_steps(run)
    assert events(run, "validated") and list((run / "panels" / "2").iterdir())
    assert events(run, "saved")[-1]["step"] == done
    assert events(run, "stopped")[-1]["reason"] == "another process received a signal"
    assert checkpoint_folders(run / "checkpoints")[-1].name == str(done)
    assert "train: 2 processes" in first and "loss" in first
    assert not second  # it prints into its log
    assert "initializing the weights" in (run / "logs" / "process-001.log").read_text()

    # The same command continues; then one process is killed.
    with started(run, 2, *VALIDATION) as processes:
        processes.wait_until(lambda: num_steps(run) > done)
        processes.processes[1].kill()
        statuses = processes.wait(60)
        first = processes.terminals[0].read_text()
    assert events(run, "resumed_from")[-1]["step"] == done
    assert statuses == [LOST, -signal.SIGKILL], first
    assert "train: process 1 (" in first and "was lost: its connection ended" in first
    assert "the same command continues" in first and "Traceback" not in first


@pytest.mark.slow
def test_the_loss_of_process_0_ends_the_others_with_a_message(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(run, 4) as processes:
        processes.wait_until(lambda: num_steps(run) >= 1)
        processes.processes[0].kill()
        statuses = processes.wait(60)
        texts = [file.read_text() for file in processes.terminals[1:]]
    assert statuses == [-signal.SIGKILL, LOST, LOST, LOST], texts
    for text in texts:
        assert text.startswith("train: process 0 (") and text.count("\n") == 1, text
        assert "was lost" in text


@pytest.mark.slow
def test_an_error_of_one_process_ends_all_and_process_0_shows_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    finish(run, 2, steps=1)
    with started(run, 2, "optim.peak_lr=1", steps=2) as processes:
        statuses = processes.wait()
        assert set(statuses) == {2} or sorted(statuses) == [2, LOST], processes.text()
        assert "optim.peak_lr was 0.01, now 1.0" in processes.terminals[0].read_text()
        assert "Traceback" not in processes.text()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [("mesh.fsdp=4",), ("mesh.data=2", "mesh.tensor=2")])
def test_two_and_four_processes_train_as_one(tmp_path: Path, mesh: tuple[str, ...]) -> None:
    steps = 3
    runs = {count: tmp_path / str(count) for count in (1, 2, 4)}
    for count, run in runs.items():
        finish(run, count, *mesh, steps=steps)
    assert len({*losses(runs[1])}) == steps
    expected = load_trained_leaves(runs[1], steps)[0]
    for count in (2, 4):
        np.testing.assert_allclose(losses(runs[count]), losses(runs[1]), rtol=1e-5)
        leaves = load_trained_leaves(runs[count], steps)[0]
        apart = {name: np.abs(leaves[name] - value).max() for name, value in expected.items()}
        assert max(apart.values()) < 1e-6, max(apart, key=apart.__getitem__)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """Two processes without interruption; or stopped, then resumed by two, four or one."""
    steps, mesh = 4, ("mesh.data=2", "mesh.fsdp=2")
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    finish(unbroken, 2, *mesh, steps=steps)
    finish(broken, 2, *mesh, steps=2)
    others = {count: tmp_path / f"resumed-{count}" for count in (1, 4)}
    for count, run in others.items():
        shutil.copytree(broken, run)
        finish(run, count, *mesh, steps=steps)
    finish(broken, 2, *mesh, steps=steps)
    assert_same_bits(broken, unbroken, steps)
    expected = load_trained_leaves(unbroken, steps)[0]
    for run in others.values():
        np.testing.assert_allclose(losses(run), losses(unbroken), rtol=1e-5)
        for name, value in load_trained_leaves(run, steps)[0].items():
            np.testing.assert_allclose(value, expected[name], atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(("count", "kills"), [(2, 10), (4, 4)])
def test_kills_at_random_moments_lose_nothing(tmp_path: Path, count: int, kills: int) -> None:
    steps = 200
    total = f"optim.total_steps={steps}"
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    finish(unbroken, count, total)
    moments = random.Random(count)
    for _ in range(kills):
        with started(killed, count, total) as processes:
            # One that dies before it joins is waited for longer (tests/test_process_group.py).
            processes.wait_until(lambda: "their output" in processes.terminals[0].read_text())
            # Some are killed while they compile or restore, some while steps run.
            if moments.random() < 0.6:
                before = num_steps(killed)
                processes.wait_until(lambda before=before: num_steps(killed) != before)
            victim = moments.randrange(count)
            time.sleep(moments.uniform(0, 8))
            processes.processes[victim].kill()
            statuses = processes.wait(60)  # all others end within a minute
        others = [status for index, status in enumerate(statuses) if index != victim]
        assert {*others} <= {0, 2, LOST}, (statuses, processes.text())
        assert "Traceback" not in processes.text()
    finish(killed, count, total)
    assert_same_bits(killed, unbroken, steps)


@pytest.mark.slow
def test_the_checkpoint_after_sigterm_is_saved_within_30_seconds(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with started(run, 2) as processes:
        processes.wait_until(lambda: num_steps(run) >= 3)
        signalled = time.monotonic()
        for process in processes.processes:  # as a scheduler does
            process.send_signal(signal.SIGTERM)
        assert processes.wait() == [0, 0], processes.text()
    assert time.monotonic() - signalled < 30
    assert events(run, "saved")[-1]["step"] == num_steps(run)
