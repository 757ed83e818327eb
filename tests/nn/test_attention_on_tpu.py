"""The TPU path lowers to Pallas kernels on a machine that has no TPU, forward and backward."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from glamm_jax.nn import attention as attention_module
from glamm_jax.nn import attention_kernels, splash_attention
from glamm_jax.nn.attention import attention
from glamm_jax.nn.attention_mask import Segments


def shaped(*shape: int, dtype: jnp.dtype = jnp.bfloat16) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


@pytest.fixture(autouse=True)
def on_tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (attention_module, attention_kernels, splash_attention):
        monkeypatch.setattr(module, "platform", lambda: "tpu")


def kernels(function, *arguments: jax.ShapeDtypeStruct) -> int:
    """Pallas calls in the program that a TPU would run."""
    exported = jax.export.export(jax.jit(function), platforms=["tpu"])(*arguments)
    return exported.mlir_module().count("tpu_custom_call")


def test_the_decoders_attention_is_one_kernel_forward_and_three_with_gradients() -> None:
    q, valid = shaped(2, 1024, 4, 128), shaped(2, 1024, dtype=jnp.bool_)

    def forward(q, valid):
        return attention(q, q, q, causal=True, key_valid=valid)

    def loss(q, valid):
        return forward(q, valid).astype(jnp.float32).sum()

    assert kernels(forward, q, valid) == 1
    assert kernels(jax.grad(loss), q, valid) == 3


def test_a_packed_row_is_the_kernel_twice_and_two_more_for_the_gradients_of_each() -> None:
    """Grouped-query attention, of the rows of the recipes. Both calls forward share a function."""
    q, k, ids = shaped(1, 1792, 8, 128), shaped(1, 1792, 2, 128), shaped(1, 1792, dtype=jnp.int32)

    def loss(q, k, ids):
        segments = Segments(ids, ids - 1)
        return attention(q, k, k, causal=True, segments=segments).astype(jnp.float32).sum()

    assert kernels(loss, q, k, ids) == 1
    assert kernels(jax.grad(loss, (0, 1)), q, k, ids) == 1 + 2 * 2


def test_clips_577_tokens_are_padded_to_one_kernel() -> None:
    q = shaped(1, 577, 16, 64)
    assert kernels(lambda q: attention(q, q, q), q) == 1


def test_sams_global_attention_with_its_relative_positions_is_one_kernel() -> None:
    augmented, values = shaped(1, 4096, 16, 80 + 128), shaped(1, 4096, 16, 80)
    assert kernels(lambda q, k, v: attention(q, k, v, scale=1.0), augmented, augmented, values) == 1


def test_a_single_decoding_step_needs_no_kernel() -> None:
    q, k = shaped(2, 1, 4, 128), shaped(2, 1024, 4, 128)
    assert kernels(lambda q, k: attention(q, k, k), q, k) == 0
