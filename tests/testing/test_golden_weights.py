"""The weight rule gives the recorded values, whatever the name, shape or salt."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from glamm_jax.testing import golden_weights

CHECK = json.loads(
    (Path(__file__).parents[1] / "goldens" / "weight_rule_check.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CHECK["tensors"], ids=lambda case: case["salt"] + case["name"])
def test_tensors_are_the_recorded_ones(case):
    ours = golden_weights.tensor(case["name"], case["shape"], case["salt"])
    assert ours is not None and ours.dtype == np.float32
    assert ours.shape == tuple(case["shape"])
    np.testing.assert_array_equal(ours.reshape(-1)[:4], np.float32(case["first4"]))
    np.testing.assert_allclose(ours.mean(), case["mean"], atol=1e-7)
    np.testing.assert_allclose(ours.std(), case["std"], atol=1e-7)
    scale, shift = golden_weights.scale_and_shift(case["name"], case["shape"])
    assert (scale, shift) == (pytest.approx(case["scale"], rel=1e-15), case["shift"])


def test_blocky_inputs_are_the_recorded_ones():
    ours = golden_weights.blocky("demo", (1, 3, 20, 24), 8)
    recorded = CHECK["blocky('demo',(1,3,20,24),8)"]
    np.testing.assert_array_equal(ours.reshape(-1)[:4], np.float32(recorded["first4"]))
    np.testing.assert_allclose(ours.astype(np.float64).sum(), recorded["sum"], atol=1e-9)


def test_images_are_the_recorded_ones():
    ours = golden_weights.image_u8("demo", 37, 41)
    recorded = CHECK["image_u8('demo',37,41)"]
    assert ours.dtype == np.uint8 and ours.shape == (37, 41, 3)
    assert ours.reshape(-1)[:8].tolist() == recorded["first8"]
    assert int(ours.astype(np.int64).sum()) == recorded["sum"]


@pytest.mark.parametrize("name", ["pixel_mean", "x.rotary_emb.inv_freq", "v.position_ids"])
def test_computed_buffers_are_not_drawn(name):
    assert golden_weights.tensor(name, (3, 1, 1)) is None


def test_salt_and_name_change_the_numbers():
    first = golden_weights.normal("a", (8,))
    assert not np.array_equal(first, golden_weights.normal("b", (8,)))
    assert not np.array_equal(first, golden_weights.normal("a", (8,), salt="other:"))
