"""`glamm-jax convert browse` writes a page about records."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.cli.convert import main
from glamm_jax.report.dataset_page import UNREADABLE_RECORD


@pytest.fixture
def shards(tmp_path: Path, goldens: Path) -> Path:
    """Two datasets, one of which has defects."""
    world = ["miniworld", "--out", str(tmp_path / "shards"), "--scenes", "10", "--size", "64"]
    assert main(world) == 0
    source = ["--source", str(goldens / "fixtures" / "data")]
    assert main(["dataset", "grandf_ha", *source, "--out", str(tmp_path / "shards")]) == 0
    return tmp_path / "shards"


def test_all_datasets_and_splits_below_a_folder_are_shown(shards: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["browse", str(shards), "--out", str(page), "--samples", "2"]) == 0
    text = page.read_text(encoding="utf-8")
    for name in ("glamm_grandf_ha, train", *(f"glamm_miniworld, {s}" for s in ("train", "val"))):
        assert f">{name}</h2>" in text
    assert "overlapping polygons" in text  # of the fixtures
    assert "targets</small>" in text
    assert "caption: no annotation of this task" in text  # two of the fixtures have none


def test_a_limit_spreads_what_is_read(shards: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    folder = shards / "glamm_miniworld" / "1.0.0"
    assert main(["browse", str(folder), "--out", str(page), "--limit", "3"]) == 0
    text = page.read_text(encoding="utf-8")
    assert "<b>10</b>images" in text
    assert "<b>3</b>images examined" in text


def test_a_damaged_record_is_named_and_the_others_are_shown(shards: Path, tmp_path: Path) -> None:
    folder = shards / "glamm_miniworld" / "1.0.0"
    (file,) = folder.glob("*-val.array_record*")
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4] = bytes(byte ^ 0xFF for byte in data[middle : middle + 4])
    file.write_bytes(data)
    page = tmp_path / "page.html"
    assert main(["browse", str(folder), "--out", str(page), "--samples", "1"]) == 0
    assert UNREADABLE_RECORD in page.read_text(encoding="utf-8")


def test_a_mini_world_is_drawn_on_the_spot(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["browse", "miniworld/easy@64", "--out", str(page), "--limit", "3"]) == 0
    assert "The picture shows" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["miniworld/moon"], "no mini-world 'moon'; there are easy, full"),
        (["nothing"], "no finished dataset in it"),
        (["miniworld/easy", "--tokenizer", "nowhere"], "tokenizer.model: no such file"),
    ],
)
def test_what_cannot_be_shown_is_said_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], data: list[str], message: str
) -> None:
    page = tmp_path / "page.html"
    assert main(["browse", *data, "--out", str(page)]) == 2
    assert message in capsys.readouterr().err
    assert not page.exists()


@pytest.mark.parametrize("option", ["--samples", "--limit"])
def test_a_count_of_zero_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    page = tmp_path / "page.html"
    with pytest.raises(SystemExit, match="2"):
        main(["browse", "miniworld/easy", "--out", str(page), option, "0"])
    assert f"{option}: 0 is less than 1" in capsys.readouterr().err
    assert not page.exists()


def test_a_conversation_that_is_longer_than_a_row_is_said_to_be_cut(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    options = ["--limit", "2", "--tokens", "700"]
    assert main(["browse", "miniworld/full@64", "--out", str(page), *options]) == 0
    assert "vqa: truncated to the context" in page.read_text(encoding="utf-8")
