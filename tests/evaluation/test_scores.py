"""A file of scores gives back what was written, and says what is wrong with another."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from glamm_jax.evaluation.scores import RunScores, ScoresError, load_scores, save_scores
from glamm_jax.metrics.result import MetricResult

COMPAT = MetricResult(
    {"mIoU": 0.663, "recall": 0.4},
    {"a": {"mIoU": 0.5, "matches": 1.0, "phrases": 2.0}, "b": {"mIoU": 0.826}},
    {"recall": ("matches", "phrases")},
    {"missing prediction": ("b",)},
)
STRICT = MetricResult({"mIoU": 0.25}, {"a": {"mIoU": 0.25}, 'c"\n': {"mIoU": 0.25}})
RUN = RunScores("gcg", "val", {"compat": COMPAT, "strict": STRICT}, "8c1f", "words", {"items": 2})


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    save_scores(tmp_path / "out" / "scores.json", RUN)
    assert load_scores(tmp_path / "out" / "scores.json") == RUN


def test_an_item_is_one_line_and_figures_come_before_items(tmp_path: Path) -> None:
    save_scores(tmp_path / "scores.json", RUN)
    text = (tmp_path / "scores.json").read_text("utf-8")
    assert json.loads(text)["modes"]["compat"] == {"mIoU": 0.663, "recall": 0.4}
    (line,) = [line for line in text.splitlines() if line.startswith('    "a"')]
    assert '"matches": 1.0' in line
    assert '"strict": {"mIoU": 0.25}' in line
    assert text.index('"modes"') < text.index('"each"')


def test_what_is_not_a_number_is_null_and_comes_back(tmp_path: Path) -> None:
    scored = MetricResult({"AP": math.nan, "x": math.inf}, {"a": {"AP": math.nan}})
    save_scores(tmp_path / "scores.json", RunScores("gcg", "val", {"strict": scored}))
    assert "NaN" not in (tmp_path / "scores.json").read_text("utf-8")
    read = load_scores(tmp_path / "scores.json").modes["strict"]
    assert math.isnan(read.scores["AP"])
    assert math.isnan(read.scores["x"])
    assert math.isnan(read.per_item["a"]["AP"])


def test_a_run_without_items_has_a_file_too(tmp_path: Path) -> None:
    empty = RunScores("gcg", "val", {"compat": MetricResult({})})
    save_scores(tmp_path / "scores.json", empty)
    assert load_scores(tmp_path / "scores.json") == empty


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"modes": {"compat": 3}}'])
def test_another_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "scores.json").write_text(text, "utf-8")
    with pytest.raises(ScoresError, match=r"scores\.json: "):
        load_scores(tmp_path / "scores.json")


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ScoresError, match="no such file; is this the folder"):
        load_scores(tmp_path / "scores.json")
