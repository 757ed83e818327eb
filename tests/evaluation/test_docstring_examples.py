"""The examples in the docstrings of the evaluation run, with real paths."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import PromptTemplate, TextScorers
from glamm_jax.evaluation.item_cards import image_loader
from glamm_jax.evaluation.items import EvaluationData, open_items
from glamm_jax.evaluation.judge_client import JudgeReply, LLMJudge
from glamm_jax.evaluation.paper_tables import TABLES
from glamm_jax.evaluation.scores import RunScores, load_scores, save_scores
from glamm_jax.inference.chat import Assistant, load
from glamm_jax.metrics.result import MetricResult
from glamm_jax.miniworld import EASY, render_scene, scene_record
from tests.docstring_example import example_of_module
from tests.evaluation.conftest import MODEL, miniworld
from tests.evaluation.example_predictions import perfect_prediction

PACKAGE = "glamm_jax.evaluation"
MODULES = (
    *("benchmarks", "benchmarks.base", "items", "predict", "prediction_files", "runner"),
    *("evaluation_run", "evaluation_page", "scores", "compare", "published", "llm_judge"),
    *("judge_client", "provenance"),
    *("combined_table", "bootstrap", "paper_tables", "reported_rows", "table_page"),
    "benchmarks.mask_items",
)
LIST_OF_PREDICTIONS = ("prediction_files", "evaluation_page")  # the others take them by id
RESULT = MetricResult({"mIoU": 0.5}, {"a": {"mIoU": 0.5}})
# Text of an example -> what it stands for.
PATHS = {'"path/to/data"': '"miniworld/easy@64"', '"path/to/model"': repr(str(MODEL))}


def runnable_example_of(module: Any) -> str:
    """The example of a module, with real paths."""
    code = example_of_module(module)
    for text, path in PATHS.items():
        code = code.replace(text, path)
    return code


@pytest.fixture(scope="module")
def variables(tiny_assistant: Assistant) -> dict[str, Any]:
    """What the examples use and do not define."""
    item_set = miniworld("gcg", 2)
    predictions = {item.id: perfect_prediction(item) for item in item_set.items}
    return {
        "BENCHMARKS": BENCHMARKS,
        "EvaluationData": EvaluationData,
        "Path": Path,
        "TextScorers": TextScorers,
        "image_loader": image_loader,
        "load": load,
        "load_scores": load_scores,
        "open_items": open_items,
        "assistant": tiny_assistant,
        "TABLES": TABLES,
        "benchmark": BENCHMARKS["gcg"],
        "prompt": PromptTemplate("Where is {name}?"),
        "record": scene_record(render_scene(0, 1, 64, EASY)),
        "config": {"split": "val"},
        "item_set": item_set,
        "predictions": predictions,
        "result": RESULT,
        "scores": RunScores("refseg", "refcoco/val", {"strict": RESULT}),
        "other_scores": RunScores("refseg", "refcoco/testA", {"strict": RESULT}),
    }


@pytest.mark.parametrize("name", MODULES)
def test_the_example_runs(
    name: str, variables: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(LLMJudge, "complete", lambda self, request: JudgeReply("8 6\nBecause."))
    module = importlib.import_module(f"{PACKAGE}.{name}")
    namespace = {**vars(module), **variables}
    if name in LIST_OF_PREDICTIONS:
        namespace["predictions"] = [*variables["predictions"].values()]
    for letter in "ab":
        namespace[f"path_{letter}"] = tmp_path / f"{letter}.json"
        save_scores(tmp_path / f"{letter}.json", RunScores("gcg", "val", {"strict": RESULT}))
    exec(compile(runnable_example_of(module), f"<docstring of {name}>", "exec"), namespace)


def test_the_example_of_the_encoder_names_what_exists() -> None:
    from glamm_jax.evaluation import bert_similarity

    tree = ast.parse(example_of_module(bert_similarity))
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert all(hasattr(bert_similarity.BertSimilarity, name) for name in attributes)
    assert "BertSimilarity" in {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
