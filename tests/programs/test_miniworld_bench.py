"""The benchmark of the mini-world runs and writes its results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import miniworld


def test_every_world_and_size_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(miniworld, "SIZES", (32, 64))
    assert miniworld.main(["--scenes", "1", "--out", str(tmp_path / "miniworld.json")]) == 0
    rows = json.loads((tmp_path / "miniworld.json").read_text("utf-8"))["rows"]
    assert [(row["world"], row["size"]) for row in rows] == [
        *(("easy", 32), ("easy", 64), ("full", 32), ("full", 64)),
    ]
    assert all(row[key] > 0 for row in rows for key in ("scene", "record", "example"))
    assert "| full, 64 x 64 |" in capsys.readouterr().out
