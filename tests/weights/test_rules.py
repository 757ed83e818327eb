"""A table is total: one error lists everything that does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.weights.rules import (
    UnmappedTensor,
    WeightRule,
    WeightsError,
    WeightTable,
    find_problems,
)
from glamm_jax.weights.tensor_sinks import MemoryWriter
from glamm_jax.weights.tensor_sources import MemorySource
from glamm_jax.weights.transfer import import_tensors

TABLE = WeightTable(
    (
        WeightRule("layers.{layer}.up.weight", "layers.up.kernel", "linear", (0, 1)),
        WeightRule("norm.weight", "norm.scale"),
    ),
    (
        UnmappedTensor("ids", "recomputed", "0..2", compute=lambda: np.arange(3)),
        UnmappedTensor("old.{layer}.weight", "carried", "unused", (0, 1)),
    ),
)
LEAVES = {"layers.up.kernel": (2, 4, 3), "norm.scale": (4,)}
TENSORS = {"layers.0.up.weight": (3, 4), "layers.1.up.weight": (3, 4), "norm.weight": (4,)}


def test_exactly_the_tensors_of_the_table_pass():
    assert not find_problems(TABLE, TENSORS, LEAVES)
    assert not find_problems(TABLE, TENSORS | {"ids": (3,), "old.1.weight": (9,)}, LEAVES)


def test_everything_wrong_is_in_one_error():
    shapes = {"layers.0.up.weight": (4, 3), "norm.weight": (4,), "extra": (1,), "ids": (2,)}
    source = MemorySource({name: np.zeros(shape) for name, shape in shapes.items()})
    with pytest.raises(WeightsError) as caught:
        import_tensors(TABLE, source, LEAVES | {"norm.bias": (4,)}, MemoryWriter())
    assert str(caught.value).splitlines() == [
        "problems with the weights (5):",
        "missing tensor layers.1.up.weight",
        "unknown tensor extra",
        "leaf norm.bias is filled by no tensor",
        "layers.0.up.weight: shape (4, 3), but the model expects (3, 4)",
        "ids: shape (2,), but the model expects (3,)",
    ]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (WeightRule("norm.weight.2", "norm.scale"), "leaf norm.scale of 4 layers is filled at"),
        (WeightRule("b", "bias"), "no such leaf bias (for b)"),
    ],
)
def test_a_leaf_is_filled_once_and_exists(rule, problem):
    table = WeightTable((*TABLE.rules, rule))
    problems = find_problems(table, TENSORS | {rule.tensor: (4,)}, LEAVES)
    assert any(text.startswith(problem) for text in problems), problems


def test_a_layer_that_no_tensor_fills_is_named():
    problems = find_problems(TABLE, TENSORS, LEAVES | {"layers.up.kernel": (3, 4, 3)})
    assert problems == ["leaf layers.up.kernel of 3 layers is filled at [0, 1]"]
