"""`python -m convert parity`: exit codes, names in the output, the JSON file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glamm_jax.cli.convert import main
from tests.parity.tampering import change_json, copy_parts


@pytest.fixture
def folder(goldens: Path, tmp_path: Path) -> Path:
    return copy_parts(goldens, tmp_path, "preprocessing", "tokenizer", "conversations")


def parity(*arguments: object) -> int:
    return main(["parity", *map(str, arguments)])


def test_an_equal_folder_exits_with_0_and_lists_every_array(folder: Path) -> None:
    out = folder / "parity.json"
    assert parity(folder, "--json", out) == 0
    report = json.loads(out.read_text())
    verdicts = {row["verdict"] for row in report["arrays"]}
    assert verdicts == {"equal", "excluded"}
    assert all(row["note"] for row in report["arrays"] if row["verdict"] == "excluded")
    equal = [row for row in report["arrays"] if row["verdict"] == "equal"]
    assert all(row["error"] is not None and row["tolerance"] is not None for row in equal)


def test_a_changed_folder_exits_with_1_and_names_the_array(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_json(folder / "preprocessing" / "info.json", ("sam_resize_shapes", 3, 2))
    assert parity(folder, "--only", "preprocessing") == 1
    assert "sam_resize_shapes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nowhere",), "nowhere"),
        (("{folder}", "--only", "e2e"), "e2e"),
        (("{folder}", "--only", "poetry"), "poetry"),
    ],
)
def test_an_absent_part_or_folder_exits_with_2_and_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], named: str
) -> None:
    assert parity(*(a.format(folder=folder) for a in arguments)) == 2
    assert named in capsys.readouterr().err


def test_a_broken_file_exits_with_2_and_is_named(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "preprocessing" / "image2_150x64.npz").write_bytes(b"not an archive")
    assert parity(folder) == 2
    assert "image2_150x64.npz" in capsys.readouterr().err


def test_help_explains_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parity("--help")
    text = capsys.readouterr().out
    assert "Exit status" in text
    assert "--only" in text
