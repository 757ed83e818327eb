"""Every path of a program is understood as one in a bucket, or refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.cli.main import main
from glamm_jax.cli.train import parse as parse_train

ROOT = Path(__file__).parents[2]
BUCKET = "gs://bucket/folder"
ON_THIS_MACHINE = [
    ("train", "--config", BUCKET, "--out", "run"),
    ("plan", "--config", BUCKET),
    ("ask", "--image", BUCKET),
    ("eval", "gcg", "--data", "x", "--out", "x", "--model", "x", "--images", BUCKET),
    ("convert", "from-torch", BUCKET, "--out", "model"),
    ("convert", "from-torch", "x", "--out", "model", "--clip", BUCKET),
    ("convert", "to-torch", "x", "--out", BUCKET),
    ("convert", "dataset", "jsonl", "--source", BUCKET, "--out", "shards"),
    ("convert", "dataset", "jsonl", "--source", "x", "--out", BUCKET),
    ("convert", "miniworld", "--out", BUCKET, "--scenes", "1"),
    ("convert", "parity", BUCKET),
    ("annotate", "export", "run", "--out", BUCKET),
    ("annotate", "run", "photos", "--out", "run", "--roles", BUCKET),
]
OTHER_SERVICES = [
    ("train", "--config", "x", "--out", "s3://bucket/run"),
    ("train", "--config", "x", "--out", "gs:/bucket/run"),
    ("export", "az://bucket/run", "--out", "model"),
    ("report", "run", "--out", "file:///tmp/page.html"),
    ("compare", "a", "s3://bucket/b"),
    ("eval", "gcg", "--data", "x", "--out", "s3://bucket/x", "--model", "x"),
    ("convert", "merge", "model", "--out", "s3://bucket/model"),
]


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("arguments", ON_THIS_MACHINE, ids=" ".join)
def test_what_must_be_on_this_machine_is_refused_in_a_bucket(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*arguments])
    line = capsys.readouterr().err.splitlines()[-1]
    assert f"{BUCKET}: cannot be in a bucket, since it is read or written on this machine" in line
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("arguments", OTHER_SERVICES, ids=" ".join)
def test_other_services_are_refused_by_name(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*arguments])
    line = capsys.readouterr().err.splitlines()[-1]
    assert ":// is not supported, only folders of this machine and gs://" in line or (
        "no bucket; write gs://BUCKET/FOLDER" in line
    )
    assert not [*tmp_path.iterdir()]


def test_a_path_in_a_bucket_keeps_both_slashes() -> None:
    assert str(parse_train(["--config", "c.py", "--out", f"{BUCKET}/"]).out) == BUCKET


def test_no_program_parses_a_path_without_looking_for_a_service() -> None:
    files = [*(ROOT / "glamm_jax" / "cli").rglob("*.py"), *(ROOT / "demo").glob("*.py")]
    assert not [str(path) for path in files if "type=Path" in path.read_text("utf-8")]
