"""A run is repeated with a shifted bias only if it disagrees with the recording."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import GLaMMConfig
from glamm_jax.models.glamm import GLaMM
from tools.parity.report import ComparisonReport, RecordedFile
from tools.parity.ties import TIE_SHIFT, count_differences, first_agreeing_run, with_shifted_bias


@pytest.mark.parametrize(
    ("differences", "chosen", "number"),
    [
        ({0.0: 0, TIE_SHIFT: 0, -TIE_SHIFT: 0}, 0.0, 1),
        ({0.0: 3, TIE_SHIFT: 0, -TIE_SHIFT: 0}, TIE_SHIFT, 2),
        ({0.0: 3, TIE_SHIFT: 4, -TIE_SHIFT: 0}, -TIE_SHIFT, 3),
        ({0.0: 3, TIE_SHIFT: 2, -TIE_SHIFT: 4}, TIE_SHIFT, 3),
        ({0.0: 3, TIE_SHIFT: 3, -TIE_SHIFT: 3}, 0.0, 3),
    ],
)
def test_the_first_shift_without_differences_is_chosen(differences, chosen, number):
    tried: list[float] = []

    def run(shift: float) -> float:
        tried.append(shift)
        return shift

    assert first_agreeing_run(run, differences.__getitem__) == chosen
    assert len(tried) == number


def test_counting_differences_adds_no_results():
    recorded = RecordedFile(ComparisonReport(), "e2e", "file", {"a": np.ones(4), "b": np.ones(4)})

    def compare(copy: RecordedFile) -> None:
        copy.compare("a", np.ones(4), "tiny")
        copy.compare("b", np.zeros(4), "tiny")

    assert count_differences(recorded, compare) == 1
    assert recorded.report.rows == []
    assert not recorded.handled


def test_a_shift_changes_one_bias_and_does_not_change_the_model(tiny_config: GLaMMConfig):
    model = GLaMM(tiny_config, rngs=nnx.Rngs(0))
    before = jax.tree.map(np.asarray, nnx.state(model, nnx.Param))
    moved = with_shifted_bias(model, TIE_SHIFT)
    assert with_shifted_bias(model, 0.0) is model
    changed = [
        jax.tree_util.keystr(path)
        for (path, old), new in zip(
            jax.tree_util.tree_leaves_with_path(before),
            jax.tree.leaves(nnx.state(moved, nnx.Param)),
            strict=True,
        )
        if not np.array_equal(old, new)
    ]
    assert len(changed) == 1
    assert "level_conv" in changed[0]
    assert "bias" in changed[0]
    for old, new in zip(
        jax.tree.leaves(before), jax.tree.leaves(nnx.state(model, nnx.Param)), strict=True
    ):
        np.testing.assert_array_equal(old, new)
