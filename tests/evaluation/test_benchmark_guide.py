"""docs/add-a-benchmark.md, followed literally: its benchmark is added, tested and evaluated."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from glamm_jax.cli import evaluation_options
from glamm_jax.cli.eval import main
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import Prediction
from glamm_jax.evaluation.scores import load_scores
from glamm_jax.inference.chat import Assistant
from tests.evaluation.benchmark_folders import scenes, write_jpeg
from tests.evaluation.conftest import MODEL
from tools.site.code_blocks import code_blocks

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "add-a-benchmark.md"
BLOCKS = [*code_blocks(GUIDE.read_text(encoding="utf-8"))]
MODULE, TEST = (block.text for block in BLOCKS if block.language == "python")
[LINE] = (block.text for block in BLOCKS if block.language == "json")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module of the guide, added to the benchmarks."""
    path = tmp_path / "count_objects.py"
    path.write_text(MODULE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("count_objects", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "count_objects", loaded)
    spec.loader.exec_module(loaded)
    monkeypatch.setitem(BENCHMARKS, "count_objects", loaded.COUNT_OBJECTS)
    return loaded


def test_the_test_of_the_guide_passes(module: ModuleType, tmp_path: Path) -> None:
    names = {**vars(module), "json": json, "Path": Path, "Prediction": Prediction}
    exec(compile(TEST, "<docs/add-a-benchmark.md>", "exec"), names)
    names["test_numbers_are_compared"](tmp_path)


def test_the_program_evaluates_the_benchmark_of_the_guide(
    module: ModuleType,
    tmp_path: Path,
    tiny_assistant: Assistant,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluation_options, "load", lambda *_: tiny_assistant)
    folder = tmp_path / "data"
    write_jpeg(folder / "images" / "7.jpg", scenes(1)[0].image)
    (folder / "counts.jsonl").write_text(json.dumps(json.loads(LINE)) + "\n")
    options = ("--tokens", "32", "--batch", "8", "--similarity", "words")
    paths = ("--model", str(MODEL), "--data", str(folder), "--out", str(tmp_path / "out"))
    assert main(["count_objects", *paths, *options]) == 0
    assert (tmp_path / "out" / "report.html").is_file()
    modes = load_scores(tmp_path / "out" / "scores.json").modes
    assert modes["compat"].scores == modes["strict"].scores
    assert set(modes["strict"].scores) == {"accuracy"}
