"""A program that does not find the accelerator says so in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glamm_jax.cli.program import TRACEBACK_VARIABLE, UNUSABLE_INPUT, run_program

ROOT = Path(__file__).resolve().parents[2]
MODEL = "checkpoints/miniworld-tiny"
COMMANDS = {
    "ask": ["--model", MODEL, "--image", "docs/scene.png", "--prompt", "Where is it?"],
    "train": ["--config", "tests/small_experiment.py"],
    "eval": ["gcg", "--model", MODEL, "--data", "miniworld/easy@64", "--similarity", "words"],
}


@pytest.mark.parametrize(
    "name", ["ask", *(pytest.param(x, marks=pytest.mark.slow) for x in ("train", "eval"))]
)
def test_a_missing_tpu_is_one_line(name: str, tmp_path: Path) -> None:
    out = [] if name == "ask" else ["--out", str(tmp_path / "out")]
    done = subprocess.run(
        [sys.executable, "-m", "glamm_jax", name, *COMMANDS[name], *out],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "tpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == UNUSABLE_INPUT
    [line] = done.stderr.splitlines()
    assert line.startswith(f"{name}: JAX_PLATFORMS=tpu, but jax cannot use the accelerator 'tpu': ")
    assert line.endswith("or set JAX_PLATFORMS=cpu to use the processors")


def test_other_errors_at_run_time_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(message: str) -> int:
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="out of memory"):
        run_program("train", lambda: fail("out of memory"))
    monkeypatch.delenv("JAX_PLATFORMS")
    message = "Unable to initialize backend 'cuda': no\nGPU (set JAX_PLATFORMS='' to choose)"
    assert run_program("train", lambda: fail(message)) == UNUSABLE_INPUT
    assert capsys.readouterr().err.startswith(
        "train: jax cannot use the accelerator 'cuda': no GPU. Install the extra [tpu] or [cuda]"
    )
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(RuntimeError, match="Unable to initialize"):
        run_program("train", lambda: fail(message))
