"""`python -m convert miniworld` writes worlds that other commands read."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.cli.convert import main
from glamm_jax.data.record_shards import RecordShards
from glamm_jax.data.sources.registry import find_dataset
from glamm_jax.miniworld import EASY, hold_out, render_scene, scene_record

SMALL = ["--scenes", "12", "--size", "64"]


def _run(out: Path, *arguments: str) -> int:
    return main(["miniworld", "--out", str(out), *SMALL, *arguments])


@pytest.mark.parametrize(
    ("format_name", "dataset", "splits"),
    [
        ("grand", "grand", {"train": 12}),
        ("grandf", "grandf_ha", {"train": 12, "val": 2, "test": 2}),
        ("refcoco", "refcoco", {"train": 12, "val": 2, "test": 2}),
    ],
)
def test_every_format_is_read_by_its_own_reader(
    tmp_path: Path, format_name: str, dataset: str, splits: dict[str, int]
) -> None:
    assert _run(tmp_path / "world", "--format", format_name) == 0
    for split, number in splits.items():
        source = find_dataset(dataset)(tmp_path / "world", split)
        results = [source.read(key) for key in source.keys]
        assert sum(result.record is not None for result in results) == number
        assert not any(result.defects for result in results)


def test_shards_hold_the_scenes_and_conversion_resumes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--world", "easy", "--seed", "3", "--held-out", "red:star,blue:circle")
    for _ in range(2):
        assert _run(tmp_path / "world", *options) == 0
        assert "12 records of 12 images" in capsys.readouterr().out
    train, test = hold_out(EASY, (("red", "star"), ("blue", "circle")))
    folder = tmp_path / "world/glamm_miniworld/1.0.0"
    for split, ids, world in (("train", range(12), train), ("val", range(12, 14), test)):
        records = {record.image_id: record for record in RecordShards(folder, split)}
        assert records == {
            f"3-{i}": scene_record(render_scene(3, i, 64, world), split) for i in ids
        }
    assert _run(tmp_path / "world", "--world", "easy") == 2
    assert "contains another conversion" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--held-out", "red:blob"], "a kind is a colour and a shape of this world"),
        (["--format", "grand", "--out", "."], ".: exists already; remove it"),
        (["--size", "8"], "do not fit visibly into 8 x 8 pixels"),
    ],
)
def test_errors_are_reported_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert _run(tmp_path / "world", "--format", "grandf", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
