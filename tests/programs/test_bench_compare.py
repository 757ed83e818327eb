"""Two results are compared figure by figure, and the machines are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.compare import figures, main

A: dict[str, Any] = {
    "machine": {"cpu": "x", "load_average": [0.1], "versions": {"jax": "1"}, "date": "a"},
    "results": {"fast": {"seconds": 2.0, "ok": True}, "list": [1, 4], "old": 1},
}
B: dict[str, Any] = {
    "machine": {"cpu": "y", "load_average": [5.0], "versions": {"jax": "2"}, "date": "b"},
    "results": {"fast": {"seconds": 3.0, "ok": False}, "list": [1, 2], "new": 1, "zero": 0},
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, value in (("a", A), ("b", B)):
        (tmp_path / f"{name}.json").write_text(json.dumps(value))
    return [str(tmp_path / "a.json"), str(tmp_path / "b.json")]


def test_figures_have_paths() -> None:
    assert dict(figures(A)) == {
        "results/fast/seconds": 2.0,
        "results/list/0": 1.0,
        "results/list/1": 4.0,
        "results/old": 1.0,
    }


def test_ratios_and_machines(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(files) == 0
    shown = capsys.readouterr().out
    rows = [[x.strip() for x in line.strip("| ").split("|")] for line in shown.splitlines()]
    assert ["results/fast/seconds", "2", "3", "1.500"] in rows
    assert ["results/list/1", "4", "2", "0.500"] in rows
    assert "only in A: results/old" in shown
    assert "only in B: results/new, results/zero" in shown
    assert "machines differ: cpu x / y" in shown
    assert "machines differ: jax 1 / 2" in shown
    assert "date" not in shown
    assert main([*files, "--only", "list", "--smallest", "0.1"]) == 0
    shown = capsys.readouterr().out
    assert "list/1" in shown
    assert "list/0" not in shown
    assert "seconds" not in shown


def test_what_cannot_be_compared(
    files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "c.json").write_text('{"other": 1}')
    assert main([files[0], str(tmp_path / "c.json")]) == 2
    assert "no figure in common" in capsys.readouterr().err
    assert main([files[0], str(tmp_path / "missing.json")]) == 2
    assert "missing.json" in capsys.readouterr().err
