"""Recipes of inputs: the arrays that they describe, and the salt of a recipe that names none."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.testing import golden_weights
from tools.parity.recipes import compared_inputs, generate_inputs
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

SALT = "other:"


@pytest.mark.parametrize(
    "recipe", ["input:x", "normal('input:x', shape)", "normal('input:x', (B,4))"]
)
@pytest.mark.parametrize("used", [SALT, ""])
def test_the_salt_of_an_input_is_the_one_that_was_recorded(recipe: str, used: str) -> None:
    x = golden_weights.normal("input:x", (3, 4), used)
    report = ComparisonReport()
    with RecordedFile(report, "components", "file", {"in/x": x}) as recorded:
        (generated,) = compared_inputs(recorded, ["in/x"], recipe, SALT)
    np.testing.assert_array_equal(generated, x)
    assert [row.verdict for row in report.rows] == ["equal"]


def test_an_input_that_neither_salt_generates_differs() -> None:
    x = golden_weights.normal("input:x", (3, 4), "a third:")
    report = ComparisonReport()
    with RecordedFile(report, "components", "file", {"in/x": x}) as recorded:
        compared_inputs(recorded, ["in/x"], "input:x", SALT)
    assert [row.verdict for row in report.rows] == ["differs"]


def test_words_around_a_call_and_names_in_braces_are_parsed() -> None:
    (generated,) = generate_inputs(
        "normal('input:feat{l}',(2,3)), l=0..3, level 0 is the shallowest", l=2
    )
    np.testing.assert_array_equal(generated, golden_weights.normal("input:feat2", (2, 3)))


def test_a_recipe_without_a_call_is_named_with_its_file() -> None:
    recorded = RecordedFile(ComparisonReport(), "components", "file.npz", {"in/x": np.zeros(3)})
    with pytest.raises(GoldenError, match=r"file\.npz: the recipe 'some noise' has no call"):
        compared_inputs(recorded, ["in/x"], "some noise", SALT)
