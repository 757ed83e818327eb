"""The shipped tiny model of the mini-world, and questions that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.items import EvaluationData, ItemSet, open_items
from glamm_jax.inference.chat import Assistant, load

MODEL = Path(__file__).resolve().parents[2] / "checkpoints" / "miniworld-tiny"


def miniworld(benchmark: str, pictures: int, split: str = "test") -> ItemSet:
    """Items of held-out scenes, in the words that the tiny model knows."""
    asked = BENCHMARKS[benchmark]
    data = EvaluationData("miniworld/easy@64", split, limit=pictures)
    return open_items(asked, data, asked.wording("ours"))


@pytest.fixture(scope="session")
def tiny_assistant() -> Assistant:
    """On one device."""
    return load(MODEL)
