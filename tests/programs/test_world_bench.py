"""The benchmark of the mini-world runs and writes what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import world


def test_every_world_and_size_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(world, "SIZES", (32, 64))
    assert world.main(["--scenes", "1", "--out", str(tmp_path / "world.json")]) == 0
    rows = json.loads((tmp_path / "world.json").read_text("utf-8"))["rows"]
    assert [(row["world"], row["size"]) for row in rows] == [
        *(("easy", 32), ("easy", 64), ("full", 32), ("full", 64)),
    ]
    assert all(row[what] > 0 for row in rows for what in ("scene", "record", "example"))
    assert "| full, 64 x 64 |" in capsys.readouterr().out
