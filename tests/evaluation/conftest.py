"""The shipped tiny model of the mini-world, and items that it can answer."""

from __future__ import annotations

from pathlib import Path

import pytest

import glamm_jax.miniworld  # noqa: F401  # registers the scheme miniworld/NAME
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.benchmarks.base import refuse_record
from glamm_jax.evaluation.items import EvaluationData, ItemSet, open_items
from glamm_jax.inference.chat import Assistant, load

# Benchmarks that take records, such as those of the mini-world.
FROM_RECORDS = [x for x in BENCHMARKS if BENCHMARKS[x].items_from_record is not refuse_record]
MODEL = Path(__file__).resolve().parents[2] / "checkpoints" / "miniworld-tiny"


def miniworld(name: str, num_images: int, split: str = "test") -> ItemSet:
    """Items of held-out scenes, with the prompts that the tiny model was trained with."""
    benchmark = BENCHMARKS[name]
    data = EvaluationData("miniworld/easy@64", split, limit=num_images)
    return open_items(benchmark, data, benchmark.prompt_template("ours"))


@pytest.fixture(scope="session")
def tiny_assistant() -> Assistant:
    """On one device."""
    return load(MODEL)
