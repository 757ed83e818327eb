"""On the CPU the sizes select the implementation, which does not change the result."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glamm_jax.nn import attention as module
from glamm_jax.nn import blockwise_attention as blockwise_module
from glamm_jax.nn.attention import Segments, attention

# Limit of the scores of a row that selects each implementation at the sizes below.
LIMITS = {"all_rows": 2**20, "row_by_row": 2 * 33 * 33, "blockwise": 1}

# Row 0: a prefix, two conversations, another image. Row 1: all one. Row 2: two without a prefix.
OWN = np.array([[0] * 10 + [1] * 5 + [2] * 8 + [3] * 10, [0] * 33, [0] * 13 + [1] * 20])
PREFIX = np.where((OWN > 0) & (OWN < 3) & (np.arange(3) == 0)[:, None], 0, -1)
PACKED = Segments(jnp.asarray(OWN), jnp.asarray(PREFIX))
VISIBLE = (OWN[:, None, :] == OWN[:, :, None]) | (OWN[:, None, :] == PREFIX[:, :, None])


@pytest.mark.parametrize("implementation", list(LIMITS))
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", ["nothing", "padding", "segments"])
def test_every_implementation_gives_the_same_result_and_gradient(
    implementation, causal, masked, monkeypatch
):
    monkeypatch.setattr(module, "_CPU_ROW_SCORES", LIMITS[implementation])
    monkeypatch.setattr(blockwise_module, "_CPU_BLOCKS", (16, 12))
    batch_sizes, blockwise = [], module.blockwise_attention
    all_rows = module._all_rows
    monkeypatch.setattr(
        module, "_all_rows", lambda q, *x: (batch_sizes.append(len(q)), all_rows(q, *x))[1]
    )
    monkeypatch.setattr(
        module,
        "blockwise_attention",
        lambda *x, by_head: (batch_sizes.append(0), blockwise(*x, by_head=by_head))[1],
    )
    q, k, v = (jax.random.normal(jax.random.key(i), (3, 33, 2, 8)) for i in range(3))
    valid = jnp.arange(33)[None, :] < jnp.asarray([[33], [20], [7]])
    valid = valid if masked == "padding" else None
    segments = PACKED if masked == "segments" else None

    def run(q, k, v):
        return attention(q, k, v, causal=causal, key_valid=valid, segments=segments)

    def plain(q, k, v):
        scores = jnp.einsum("btnk,bsnk->bnts", q, k) * 8**-0.5
        visible = jnp.tril(jnp.ones((33, 33), bool))[None, None] if causal else True
        if valid is not None:
            visible &= valid[:, None, None, :]
        if segments is not None:
            visible &= jnp.asarray(VISIBLE)[:, None]
        weights = jax.nn.softmax(jnp.where(visible, scores, -1e30), axis=-1)
        return jnp.einsum("bnts,bsnk->btnk", weights, v)

    loss = lambda f: lambda *x: jnp.square(f(*x)).sum()  # noqa: E731
    np.testing.assert_allclose(jax.jit(run)(q, k, v), plain(q, k, v), atol=2e-6)
    gradients = jax.jit(jax.grad(loss(run), argnums=(0, 1, 2)))(q, k, v)
    expected = jax.grad(loss(plain), argnums=(0, 1, 2))(q, k, v)
    for a, b in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    assert set(batch_sizes) == {{"all_rows": 3, "row_by_row": 1, "blockwise": 0}[implementation]}
