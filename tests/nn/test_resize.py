"""Bilinear resizing as matrices against torch's interpolate."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.nn.resize import bilinear_matrix, resize_map

torch = pytest.importorskip("torch")


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def _interpolate(x: torch.Tensor, size: tuple[int, int], align_corners: bool) -> torch.Tensor:
    return torch.nn.functional.interpolate(x, size, mode="bilinear", align_corners=align_corners)


@settings(max_examples=6)  # each compiles ten operations
@given(
    source=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    target=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    align_corners=st.booleans(),
)
def test_resize_map_is_torch_interpolate(
    source: tuple[int, int], target: tuple[int, int], align_corners: bool
) -> None:
    x = _noise(2, *source, 3)
    expected = _interpolate(torch.tensor(x).permute(0, 3, 1, 2), target, align_corners)
    actual = resize_map(jnp.asarray(x), *target, align_corners=align_corners)
    np.testing.assert_allclose(actual, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=2e-5)


def test_rows_of_the_matrix_sum_to_one_and_rows_beyond_the_size_to_zero() -> None:
    matrix = bilinear_matrix(12, 8, 9, 5)
    np.testing.assert_allclose(matrix.sum(1), [1.0] * 9 + [0.0] * 3, rtol=1e-6)
    np.testing.assert_array_equal(matrix[:, 5:], np.zeros((12, 3)))


def test_resize_keeps_bfloat16() -> None:
    assert resize_map(jnp.ones((1, 2, 2, 1), jnp.bfloat16), 4, 4).dtype == jnp.bfloat16
