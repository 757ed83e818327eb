"""The shipped tiny model of the mini-world, and questions that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.items import Data, Questions, open_questions
from glamm_jax.inference.chat import Assistant, load

MODEL = Path(__file__).resolve().parents[2] / "models" / "miniworld-tiny"


def miniworld(benchmark: str, pictures: int, split: str = "test") -> Questions:
    """Items of held-out scenes, in the words that the tiny model knows."""
    asked = BENCHMARKS[benchmark]
    data = Data("miniworld/easy", split, limit=pictures, size=64)
    return open_questions(asked, data, asked.wording("ours"))


@pytest.fixture(scope="session")
def tiny_assistant() -> Assistant:
    """On one device."""
    return load(MODEL)
