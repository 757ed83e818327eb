"""Normalisations against PyTorch's."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from glamm_jax.nn.norm import GroupNorm, LayerNorm, RMSNorm, group_norm, layer_norm, rms_norm

torch = pytest.importorskip("torch")


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    # An offset, so that a forgotten mean shows.
    return 3 + 2 * np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_layer_norm_is_torch_layer_norm() -> None:
    x, scale, bias = _noise(2, 3, 8), _noise(8, seed=1), _noise(8, seed=2)
    expected = torch.nn.functional.layer_norm(
        torch.tensor(x), (8,), torch.tensor(scale), torch.tensor(bias), 1e-6
    )
    actual = layer_norm(*map(jnp.asarray, (x, scale, bias)), 1e-6)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_rms_norm_is_torch_rms_norm() -> None:
    x, scale = _noise(2, 3, 8), _noise(8, seed=1)
    expected = torch.nn.functional.rms_norm(torch.tensor(x), (8,), torch.tensor(scale), 1e-6)
    actual = rms_norm(*map(jnp.asarray, (x, scale)), 1e-6)
    np.testing.assert_allclose(actual, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_group_norm_is_torch_group_norm_on_channels_last() -> None:
    x, scale, bias = _noise(2, 4, 5, 12), _noise(12, seed=1), _noise(12, seed=2)
    expected = torch.nn.functional.group_norm(
        torch.tensor(x).permute(0, 3, 1, 2), 3, torch.tensor(scale), torch.tensor(bias), 1e-5
    )
    actual = group_norm(*map(jnp.asarray, (x, scale, bias)), 3, 1e-5)
    np.testing.assert_allclose(actual, expected.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", [LayerNorm(12, 1e-6), RMSNorm(12, 1e-6), GroupNorm(12, 3, 1e-5)])
def test_statistics_are_float32_and_the_result_has_the_input_dtype(norm: object) -> None:
    # bfloat16 cannot hold 300 and 301 apart, float32 statistics of what it holds are exact.
    x = jnp.asarray(300 + 10 * _noise(2, 4, 4, 12), jnp.bfloat16)
    half, full = norm(x), norm(x.astype(jnp.float32))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), full, rtol=2**-7, atol=2**-8)
