"""The metrics of expressions with any number of targets agree with loops over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.metrics.generalized_referring import score_generalized
from glamm_jax.metrics.result import MODES, MetricError
from tests.metrics.reference_masks import Masks, generalized, near, random_mask


def runs(masks: Masks) -> dict[str, dict[str, object] | None]:
    return {name: None if mask is None else rle.encode(mask) for name, mask in masks.items()}


@pytest.mark.parametrize("seed", range(5))
def test_all_metrics_agree_with_an_implementation_by_pixels(seed: int) -> None:
    rng = np.random.default_rng(seed)
    reference: dict[str, np.ndarray | None] = {}
    predicted: dict[str, np.ndarray | None] = {}
    for i in range(60):
        truth = random_mask(rng)
        reference[f"{i}"] = None if rng.random() < 0.3 or not truth.any() else truth
        kind = rng.random()
        predicted[f"{i}"] = None if kind < 0.2 else random_mask(rng)
        if kind > 0.5 and reference[f"{i}"] is not None:
            predicted[f"{i}"] = near(rng, truth)
    expected = generalized(predicted, reference)
    for mode in MODES:
        result = score_generalized(runs(predicted), runs(reference), mode)
        assert result.scores == pytest.approx(expected, abs=1e-12)
        assert not result.notes


def test_a_missing_prediction_is_left_out_or_wrong_but_never_right() -> None:
    full, empty = rle.encode(np.ones((2, 2), bool)), rle.encode(np.zeros((2, 2), bool))
    references = {"a": full, "b": None, "c": full, "d": None}
    predictions = {"a": full, "b": empty}
    compat, strict = (score_generalized(predictions, references, mode) for mode in MODES)
    assert compat.scores["gIoU"] == compat.scores["N_acc"] == 1
    assert strict.scores["gIoU"] == strict.scores["N_acc"] == strict.scores["T_acc"] == 0.5
    assert strict.scores["cIoU"] == 0.5
    assert strict.notes == {"missing prediction": ("c", "d")}


def test_without_expressions_of_one_kind_compat_has_zero_and_strict_nothing() -> None:
    full = rle.encode(np.ones((2, 2), bool))
    compat, strict = (score_generalized({"a": full}, {"a": full}, mode) for mode in MODES)
    assert (compat.scores["N_acc"], compat.scores["T_acc"]) == (0, 0)
    assert "N_acc" not in strict.scores
    assert strict.scores["T_acc"] == 1


def test_other_sizes_and_damaged_masks_are_named() -> None:
    full, small = (rle.encode(np.ones((n, n), bool)) for n in (4, 2))
    result = score_generalized({"a": small}, {"a": full}, "strict")
    assert result.notes == {"sizes disagree": ("a",)}
    assert (result.scores["gIoU"], result.scores["T_acc"]) == (0, 1)
    with pytest.raises(MetricError, match="a: the runs cover"):
        score_generalized({"a": {"size": [4, 4], "counts": "1"}}, {"a": None}, "strict")
