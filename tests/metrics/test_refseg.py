"""cIoU and gIoU: float32 and epsilons in compat, every expression counted in strict."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.metrics.refseg import score_refseg
from glamm_jax.metrics.result import MODES, MetricError
from tests.metrics.scenes import EMPTY, box


def both(predicted, reference, metric, **options):
    """Return a metric in compat and in strict mode."""
    return tuple(
        score_refseg({"1": predicted}, {"1": reference}, mode, **options).scores[metric]
        for mode in MODES
    )


def test_ciou_weighs_pixels_and_giou_expressions():
    predicted, reference = [box(0, 2), box(0, 8)], [box(0, 4), box(0, 8)]
    assert both(predicted, reference, "cIoU") == pytest.approx((10 / 12, 10 / 12), abs=1e-7)
    assert both(predicted, reference, "gIoU") == pytest.approx((0.75, 0.75), abs=1e-5)


def test_compat_is_float32_with_an_epsilon_in_both_divisions():
    f = np.float32
    compat, strict = both([box(0, 2)], [box(0, 4)], "gIoU")
    assert strict == 0.5
    assert compat == float(f(16) / (f(32) + f(1e-5)) / f(1 + 1e-5)) != 0.5


def test_two_empty_masks_are_right():
    assert both([EMPTY], [EMPTY], "gIoU") == pytest.approx((1, 1), abs=2e-5)
    assert both([EMPTY], [EMPTY], "cIoU") == (0.0, 1.0)
    assert both([box(0, 1)], [EMPTY], "gIoU") == (0.0, 0.0)


def test_expressions_without_a_mask_are_absent_from_ciou_in_compat_alone():
    predicted, reference = [box(0, 4)], [box(0, 4), box(4, 4)]
    assert both(predicted, reference, "cIoU") == (1.0, 0.5)
    assert both(predicted, reference, "gIoU") == pytest.approx((0.5, 0.5), abs=1e-5)


def test_none_keeps_its_place_and_counts_as_an_empty_mask():
    predicted, reference = [None, box(4, 4)], [box(0, 4), box(4, 4)]
    assert both(predicted, reference, "cIoU") == (0.5, 0.5)
    assert both([EMPTY, box(4, 4)], reference, "gIoU") == both(predicted, reference, "gIoU")
    assert both([None], [EMPTY], "gIoU") == pytest.approx((1, 1), abs=2e-5)


def test_ignored_pixels_count_in_neither_mask():
    # columns 4 and 5 are ignored: predicted 0 to 5, reference 0 to 3
    options = {"ignored": {"1": [box(4, 2)]}}
    assert both([box(0, 6)], [box(0, 4)], "cIoU", **options) == (1.0, 1.0)
    assert both([box(0, 8)], [box(0, 4)], "cIoU", **options) == pytest.approx((2 / 3, 2 / 3))
    assert both([], [box(0, 6)], "gIoU", **options) == (0.0, 0.0)


def test_ratios_give_the_metrics():
    predicted = {"1": [box(0, 2)], "2": [box(0, 8), box(0, 3)]}
    reference = {"1": [box(0, 4)], "2": [box(0, 8), box(0, 4)]}
    for mode in MODES:
        result = score_refseg(predicted, reference, mode)
        for metric, columns in result.ratios.items():
            above, below = (
                sum(item[name] for item in result.per_item.values()) for name in columns
            )
            assert above / below == pytest.approx(result.scores[metric], abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_irregular_input_is_noted_and_counts_as_no_mask(mode):
    reference = {name: [box(0, 4)] for name in ("right", "missing", "more", "size", "none")}
    predicted = {
        "right": [box(0, 4)],
        "unknown": [box(0, 4)],
        "more": [box(0, 4), box(0, 4)],
        "size": [box(0, 4, (9, 10))],
        "none": [None],
    }
    result = score_refseg(predicted, {**reference, "nothing": []}, mode)
    assert result.notes == {
        "unknown prediction": ("unknown",),
        "missing prediction": ("missing", "nothing"),
        "more masks than expressions": ("more",),
        "fewer masks than expressions": ("missing",),
        "sizes disagree": ("size",),
        "no mask given": ("none",),
        "no reference mask": ("nothing",),
    }
    assert result.scores["gIoU"] == pytest.approx(2 / 5, abs=1e-5)
    assert set(result.per_item) == set(reference)


def test_an_empty_split_is_noted():
    compat, strict = (score_refseg({}, {}, mode) for mode in MODES)
    assert compat.scores == {"cIoU": 0, "gIoU": 0}
    assert strict.scores == {}
    assert compat.notes == strict.notes == {"empty split": ()}


def test_broken_masks_are_errors_with_their_item():
    broken = {"size": [8, 10], "counts": "o"}
    with pytest.raises(MetricError, match="a: the compressed counts are damaged"):
        score_refseg({"a": [broken]}, {"a": [box(0, 4)]}, "strict")
    with pytest.raises(MetricError, match="a: 1 reference masks but 2 masks of ignored pixels"):
        score_refseg({}, {"a": [EMPTY]}, "strict", {"a": [EMPTY, EMPTY]})
    with pytest.raises(MetricError, match="a: masks of different sizes"):
        score_refseg({}, {"a": [EMPTY]}, "strict", {"a": [box(0, 1, (9, 10))]})
