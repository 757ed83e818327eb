"""`glamm-jax eval tableN`: every dataset and split of a table, resumable, on one page."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.cli import eval_table
from glamm_jax.cli.eval import main
from glamm_jax.evaluation import runner
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.items import ItemsError
from glamm_jax.evaluation.paper_tables import TABLES
from glamm_jax.evaluation.published import rows_of_split
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.miniworld.grandf_folder import write_grandf

MODEL = Path(__file__).resolve().parents[2] / "checkpoints" / "miniworld-tiny"
QUICK = ("--tokens", "32", "--batch", "8", "--similarity", "words", "--question", "ours")


def run(table: str, *options: object) -> int:
    return main([table, *map(str, options), *QUICK, "--captions"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GranD_f with two scenes in each of its splits."""
    folder = tmp_path_factory.mktemp("table") / "data"
    write_grandf(
        folder, {"val": [render_scene(5, i, 64, EASY) for i in range(2)],
                 "test": [render_scene(5, i, 64, EASY) for i in range(2, 4)]},
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def finished(data: Path) -> Path:
    out = data.parent / "out"
    assert run("table3", "--model", MODEL, "--data", data, "--out", out) == 0
    return out


def test_a_table_is_one_page_with_published_rows_intervals_and_worst_items(finished: Path) -> None:
    page = (finished / "table3.html").read_text()
    for text in (
        "the paper, table 3",
        "X-SAM, X2SAM and Sa2VA print this row as GLaMM",
        "second-hand, not checked",
        "wanghao9610/X-SAM 2e76946",
        "MBZUAI/GLaMM-GCG",
        "95% intervals",
        "Worst of val by mIoU, strict",
        "Worst of test by mIoU, strict",
        "data:image/jpeg;base64,",
    ):
        assert text in page
    assert "Not evaluated" not in page
    content = json.loads((finished / "table.json").read_text())
    assert list(content["evaluations"]) == ["val", "test"]
    for name in ("val", "test"):
        assert (finished / name / "report.html").is_file()


def test_a_finished_table_is_neither_predicted_nor_scored_again(
    finished: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(runner, "predict", never)
    monkeypatch.setattr(eval_table, "score_run", never)
    (finished / "table3.html").unlink()
    options = ("--model", MODEL, "--data", data, "--out", finished, "--only", "test")
    assert run("table3", *options) == 0
    assert "Worst of val by" in (finished / "table3.html").read_text()


def test_a_missing_split_is_named_and_the_other_is_evaluated(
    finished: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    for file in (tmp_path / "data").rglob("test_gcg_coco_*"):
        file.unlink()
    shutil.copytree(finished / "val", tmp_path / "out" / "val")
    options = ("--data", tmp_path / "data", "--out", tmp_path / "out")
    assert run("table3", "--model", MODEL, *options) == eval_table.MISSING_DATA
    assert "eval: missing: test: " in capsys.readouterr().err
    page = (tmp_path / "out" / "table3.html").read_text()
    assert "Not evaluated" in page
    assert "Worst of val by" in page


def test_results_of_another_model_or_limit_are_refused(
    finished: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = finished / "val" / "config.json"
    original = config.read_text()
    options = ("--model", MODEL, "--data", data, "--out", finished)
    assert run("table3", *options, "--limit", "1") == 2
    assert "has another evaluation: data_hash" in capsys.readouterr().err
    config.write_text(json.dumps(json.loads(original) | {"weights": "0"}))
    assert run("table3", *options) == 2
    assert "weights was '0'" in capsys.readouterr().err
    config.write_text(original)


def test_data_that_is_not_there_stops_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for table in TABLES:
        options = ("--data", tmp_path / "data", "--out", tmp_path / "out")
        assert run(table, "--model", MODEL, *options) == 2
        error = capsys.readouterr().err
        assert f"none of the data of {table} can be read" in error
        assert all(entry.name in error for entry in TABLES[table].entries)
    assert not (tmp_path / "out").exists()
    assert run("table4", "--model", MODEL, *options, "--only", "coco") == 2
    assert "table 4 has no 'coco'; available: refcoco-val" in capsys.readouterr().err


def test_entries_are_selected_by_dataset_or_split() -> None:
    table = TABLES["table4"]
    assert len(table.select([])) == 8
    names = [entry.name for entry in table.select(["refcoco", "refcocog-val"])]
    assert names == ["refcoco-val", "refcoco-testA", "refcoco-testB", "refcocog-val"]
    with pytest.raises(ItemsError, match="no 'refcoco-test'"):
        table.select(["refcoco-test"])


@pytest.mark.parametrize("name", TABLES)
def test_every_entry_has_the_rows_of_its_table(name: str) -> None:
    table = TABLES[name]
    published = BENCHMARKS[table.benchmark].published
    seen = set()
    for entry in table.entries:
        split = f"{entry.dataset}/{entry.split}" if entry.dataset else entry.name
        rows = rows_of_split(published, split)
        assert any(row.is_glamm and row.table == table.number for row in rows)
        seen |= {row.split for row in rows}
    assert seen == {row.split for row in published}
