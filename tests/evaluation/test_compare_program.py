"""`glamm-jax compare A B` compares two evaluations' folders, and shows what changed most."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from glamm_jax.cli.compare import main
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.evaluation.items import EvaluationData, ItemSet, open_items
from glamm_jax.evaluation.prediction_files import write_lines
from glamm_jax.evaluation.scores import RunScores, load_scores, save_scores
from tests.evaluation.scene_items import example_result, perfect_answer, shifted_answer

DATA = {"path": "miniworld/easy@64", "split": "test", "dataset": "", "limit": "4", "seed": "0"}


@pytest.fixture(scope="module")
def item_set() -> ItemSet:
    benchmark = BENCHMARKS["gcg"]
    data = EvaluationData("miniworld/easy@64", "test", limit=4)
    return open_items(benchmark, data, benchmark.prompt_template("ours"))


def _write(
    folder: Path, item_set: ItemSet, predictions: list[Prediction], question: str = "ours"
) -> None:
    """The files of an evaluation that the comparison reads."""
    result = example_result([*item_set.items], predictions)
    scores = RunScores("gcg", "miniworld/test", {"compat": result, "strict": result}, item_set.hash)
    save_scores(folder / "scores.json", scores)
    write_lines(folder / "predictions.jsonl", predictions)
    config = {
        "benchmark": "gcg",
        "data": DATA,
        "question": question,
        "seed": 0,
        "model": folder.name,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")


@pytest.fixture
def runs(tmp_path: Path, item_set: ItemSet) -> tuple[Path, Path]:
    before, after = tmp_path / "before", tmp_path / "after"
    _write(before, item_set, [shifted_answer(item, 4) for item in item_set.items])
    _write(after, item_set, [perfect_answer(item) for item in item_set.items])
    return before, after


def _change(folder: Path, change: Callable[[RunScores], RunScores]) -> None:
    path = folder / "scores.json"
    save_scores(path, change(load_scores(path)))


def test_the_table_is_printed(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run) for run in runs]) == 0
    printed = capsys.readouterr().out
    (line,) = re.findall(r"^strict +mIoU .*$", printed, re.MULTILINE)
    cells = line.split()
    assert float(cells[3]) == 1
    assert float(cells[4]) == pytest.approx(1 - float(cells[2]), abs=1e-4)
    assert cells[7:] == ["*", "mean", "4"]


def test_the_page_shows_what_changed_with_pictures_and_truth(
    runs: tuple[Path, Path], item_set: ItemSet, capsys: pytest.CaptureFixture[str]
) -> None:
    page = runs[0].parent / "page.html"
    assert main([*map(str, runs), "--out", str(page)]) == 0
    assert "no images" not in capsys.readouterr().out
    text = page.read_text("utf-8")
    first: Item = item_set.items[0]
    assert text.count(f"<h3>A: {first.id} 0.") == text.count(f"<h3>B: {first.id} 1.000") == 1
    assert text.count("<article>") == 3 * len(item_set.items)
    assert "Largest increases" in text
    assert "Largest decreases" not in text
    assert "<td>model</td><td>&quot;before&quot;</td><td>&quot;after&quot;</td>" in text


def test_without_the_data_the_page_has_the_words_and_says_why(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    page = runs[0].parent / "page.html"
    config = json.loads((runs[1] / "config.json").read_text("utf-8"))
    for change, reason in (
        ({"path": "gone"}, "gone: no such file"),
        ({"path": "miniworld/easy@32"}, "the data has changed since"),
        ({"limit": "many"}, "many"),
    ):
        text = json.dumps({**config, "data": {**config["data"], **change}})
        (runs[1] / "config.json").write_text(text, "utf-8")
        assert main([*map(str, runs), "--out", str(page)]) == 0
        assert re.search(f"no images: .*{reason}", capsys.readouterr().out)
        assert reason in page.read_text("utf-8")
        assert page.read_text("utf-8").count("<article>") == 2 * 4


def test_scores_alone_will_do(runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    for run in runs:
        (run / "config.json").unlink()
        (run / "predictions.jsonl").unlink()
    page = runs[0].parent / "page.html"
    assert main([*map(str, runs), "--out", str(page)]) == 0
    assert "no prediction" in page.read_text("utf-8")
    assert "no images" in capsys.readouterr().out


def test_runs_that_do_not_compare_are_refused_in_one_line(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _change(runs[1], lambda scores: replace(scores, data_hash="other"))
    assert main([*map(str, runs)]) == 2
    assert "compare: the evaluations differ in their data hash" in capsys.readouterr().err
    assert main([str(runs[0]), str(runs[0] / "nothing")]) == 2
    assert "no such file; is this the folder of a finished evaluation?" in capsys.readouterr().err
    (runs[0] / "config.json").write_text("{", "utf-8")
    assert main([str(runs[0]), str(runs[0])]) == 2
    assert "config.json: cannot be read" in capsys.readouterr().err


def test_different_judges_are_told(
    runs: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    _change(runs[1], lambda scores: replace(scores, similarity="words"))
    assert main([*map(str, runs)]) == 0
    assert "Different scorers of phrases" in capsys.readouterr().out


def test_what_produced_the_predictions_is_compared(
    runs: tuple[Path, Path], item_set: ItemSet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((runs[0] / "config.json").read_text())
    produced = {"weights": "8c1f", "sampling": "greedy", "preset": "paper", "max_tokens": 32}
    (runs[0] / "config.json").write_text(json.dumps(config | produced))
    other = {"weights": "8c1f", "sampling": "greedy", "preset": "released", "question": "theirs"}
    (runs[1] / "config.json").write_text(json.dumps(config | {"produced_by": other}))
    predictions = [replace(perfect_answer(x), run=x.id) for x in item_set.items]
    write_lines(runs[1] / "predictions.jsonl", predictions)
    page = runs[0].parent / "page.html"
    assert main([*map(str, runs), "--out", str(page)]) == 0
    printed = capsys.readouterr().out
    warnings = re.findall(r"^warning: (.*)$", printed, re.MULTILINE)
    assert warnings == [
        "different preset of the model: A: paper; B: released",
        "different prompt: A: ours; B: theirs",
        "different maximum length of an answer: A: 32; B: not recorded",
        "different seed of sampled expressions: A: 0; B: not recorded",
        f"{runs[1]}: predictions of several evaluations, with different models or prompts",
    ]
    assert "What produced the predictions" in page.read_text("utf-8")
