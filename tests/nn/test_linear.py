"""Affine maps against PyTorch's."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.nn import linear as module
from glamm_jax.nn.linear import Conv, Embedding, Linear, PatchConv, conv, patchify, unpatchify

torch = pytest.importorskip("torch")


def _noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def _channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def _assert_close(actual: jax.Array, expected: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5, atol=1e-5)


def test_linear_is_torch_linear_with_the_kernel_transposed() -> None:
    layer = Linear(5, 3, ("embed", "mlp"), rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.asarray(_noise(3))
    x = _noise(2, 4, 5)
    weight = torch.tensor(np.asarray(layer.kernel[...]).T.copy())
    bias = torch.tensor(np.asarray(layer.bias[...]))
    expected = torch.nn.functional.linear(torch.tensor(x), weight, bias)
    _assert_close(layer(jnp.asarray(x)), expected.numpy())


def test_linear_computes_in_the_dtype_of_its_input() -> None:
    layer = Linear(5, 3, ("embed", "mlp"), rngs=nnx.Rngs(0))
    assert layer(jnp.ones((2, 5), jnp.bfloat16)).dtype == jnp.bfloat16
    assert layer.kernel.dtype == jnp.float32


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 1, 3), (2, 0, 3), (1, 0, 1)])
def test_conv_is_torch_conv2d(stride: int, padding: int, size: int) -> None:
    x, kernel, bias = _noise(2, 7, 9, 4), _noise(size, size, 4, 6, seed=1), _noise(6, seed=2)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(kernel).permute(3, 2, 0, 1),
        torch.tensor(bias),
        stride=stride,
        padding=padding,
    )
    actual = conv(*map(jnp.asarray, (x, kernel, bias)), stride=stride, padding=padding)
    _assert_close(actual, _channels_last(expected))


@pytest.mark.parametrize(("stride", "padding", "size"), [(1, 1, 3), (2, 1, 3), (1, 0, 2)])
def test_gradients_of_a_conv_are_those_of_torch(stride: int, padding: int, size: int) -> None:
    x, kernel = _noise(2, 7, 9, 4), _noise(size, size, 4, 6, seed=1)
    inputs = torch.tensor(x, requires_grad=True), torch.tensor(kernel, requires_grad=True)
    settings = {"stride": stride, "padding": padding}
    expected = torch.nn.functional.conv2d(
        inputs[0].permute(0, 3, 1, 2), inputs[1].permute(3, 2, 0, 1), **settings
    )
    weights = _noise(*_channels_last(expected.detach()).shape, seed=2)
    (expected * torch.tensor(weights).permute(0, 3, 1, 2)).sum().backward()
    loss = lambda x, kernel: (conv(x, kernel, **settings) * weights).sum()  # noqa: E731
    for actual, tensor in zip(
        jax.grad(loss, (0, 1))(jnp.asarray(x), jnp.asarray(kernel)), inputs, strict=True
    ):
        _assert_close(actual, tensor.grad.numpy())


def test_conv_module_without_bias_has_no_bias_leaf() -> None:
    layer = Conv(4, 6, 3, rngs=nnx.Rngs(0), padding=1, use_bias=False)
    assert layer.bias is None
    assert layer(jnp.zeros((1, 5, 5, 4))).shape == (1, 5, 5, 6)


def test_patch_conv_is_a_strided_conv2d() -> None:
    layer = PatchConv(3, 8, 4, rngs=nnx.Rngs(0))
    layer.bias[...] = jnp.asarray(_noise(8))
    x = _noise(2, 8, 12, 3)
    expected = torch.nn.functional.conv2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(np.asarray(layer.kernel[...])).permute(3, 2, 0, 1),
        torch.tensor(np.asarray(layer.bias[...])),
        stride=4,
    )
    _assert_close(layer(jnp.asarray(x)), _channels_last(expected))


def test_transposed_patch_conv_is_conv_transpose2d() -> None:
    layer = PatchConv(6, 5, 2, rngs=nnx.Rngs(0), transposed=True)
    layer.bias[...] = jnp.asarray(_noise(5))
    x = _noise(2, 3, 4, 6)
    expected = torch.nn.functional.conv_transpose2d(
        torch.tensor(x).permute(0, 3, 1, 2),
        torch.tensor(np.asarray(layer.kernel[...])).permute(0, 3, 1, 2),
        torch.tensor(np.asarray(layer.bias[...])),
        stride=2,
    )
    _assert_close(layer(jnp.asarray(x)), _channels_last(expected))


def test_unpatchify_inverts_patchify() -> None:
    x = jnp.asarray(_noise(2, 6, 9, 4))
    np.testing.assert_array_equal(unpatchify(patchify(x, 3), 3), x)


def test_embedding_of_minus_one_is_zero() -> None:
    table = Embedding(4, 3, ("vocab", "embed"), rngs=nnx.Rngs(0))
    rows = table(jnp.array([2, -1]), jnp.float32)
    np.testing.assert_array_equal(rows[0], table.table[...][2])
    np.testing.assert_array_equal(rows[1], np.zeros(3))


def test_every_leaf_of_a_stack_has_the_leading_axis_and_its_name() -> None:
    layer = Linear(5, 3, ("embed", "mlp"), rngs=nnx.Rngs(0), stack=(2,))
    assert layer.kernel.shape == (2, 5, 3)
    assert layer.kernel.get_metadata()["axes"] == ("layers", "embed", "mlp")
    assert layer.bias.get_metadata()["axes"] == ("layers", "mlp")


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 1e-5), (jnp.bfloat16, 0.05)])
def test_a_kernel_read_in_pieces_out_of_its_stack_is_the_kernel(
    monkeypatch: pytest.MonkeyPatch, dtype: jnp.dtype, atol: float
) -> None:
    monkeypatch.setattr(module, "_MAX_CHUNK_SIZE", 4 * 5)  # 12 rows of 5 in chunks of 4
    kernels = jax.random.normal(jax.random.key(0), (3, 12, 5), dtype)
    for rows in ((2, 1), (0, 1)):
        x = jax.random.normal(jax.random.key(1), (*rows, 12), dtype)
        actual = module.linear_from_stack(x, kernels, jnp.asarray(1))
        assert actual.dtype == dtype
        expected = np.asarray(x, np.float32) @ np.asarray(kernels[1], np.float32)
        np.testing.assert_allclose(np.asarray(actual, np.float32), expected, atol=atol)
