"""Activations against PyTorch's, and the order of layers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.nn.mlp import MLP, activate

torch = pytest.importorskip("torch")

TORCH = {
    "gelu": torch.nn.functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": torch.nn.functional.relu,
    "silu": torch.nn.functional.silu,
}


@pytest.mark.parametrize("name", TORCH)
def test_activation_is_torchs(name: str) -> None:
    x = np.linspace(-6, 6, 101, dtype=np.float32)
    expected = TORCH[name](torch.tensor(x)).numpy()
    np.testing.assert_allclose(activate(jnp.asarray(x), name), expected, rtol=1e-5, atol=1e-6)


def test_mlp_has_an_activation_between_layers_and_none_after_the_last() -> None:
    mlp = MLP((3, 5, 4, 2), "relu", rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).standard_normal((2, 3), dtype=np.float32)
    expected = x
    for layer in mlp.layers:
        expected = np.maximum(expected, 0) if expected is not x else expected
        expected = expected @ np.asarray(layer.kernel[...])
    assert (expected < 0).any()
    np.testing.assert_allclose(mlp(jnp.asarray(x)), expected, rtol=1e-5, atol=1e-6)
