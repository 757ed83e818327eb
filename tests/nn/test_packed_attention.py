"""Memory-linear kernels give the outputs and gradients of dense attention, for any packed row."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.nn.attention import attention
from glamm_jax.nn.attention_mask import NO_MASK, MaskArrays, Segments
from glamm_jax.nn.blockwise_attention import blockwise_attention
from glamm_jax.parallel import make_mesh, use_mesh

HEADS, KEY_HEADS, WIDTH, VALUE_WIDTH = 4, 2, 8, 6
LENGTH = 40  # of the rows in the property test: not a multiple of the blocks
ROWS = 2
Groups = list[tuple[int, list[int]]]  # (length of the prefix, lengths of its conversations)


def packed_row(groups: Groups, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return segment, prefix segment and validity of the tokens of a row, padded to a length."""
    ids, prefixes = [], []
    for prefix, conversations in groups:
        shared = len(set(ids)) if prefix else -1
        ids += [shared] * prefix
        prefixes += [-1] * prefix
        for size in conversations:
            ids += [len(set(ids))] * size
            prefixes += [shared] * size
    padding = max(length - len(ids), 0)
    ids, prefixes = (np.array(x[:length] + [-1] * padding) for x in (ids, prefixes))
    return ids, prefixes, ids >= 0


def operands(length: int, seed: int = 0) -> tuple[jax.Array, ...]:
    """Return queries, keys, values, and the gradient of the output."""
    sizes = ((HEADS, WIDTH), (KEY_HEADS, WIDTH), (KEY_HEADS, VALUE_WIDTH), (HEADS, VALUE_WIDTH))
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(rng.standard_normal((ROWS, length, *size), dtype=np.float32)) for size in sizes
    )


def by_blocks(
    by_head: bool, q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, masks: MaskArrays
) -> jax.Array:
    """Small blocks, so that short rows have many."""
    scaled = q * WIDTH**-0.5
    return blockwise_attention(scaled, k, v, causal, masks, by_head=by_head, blocks=(8, 12))


def dense(q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, masks: MaskArrays) -> jax.Array:
    return attention(q, k, v, causal=causal, key_valid=masks.valid, segments=masks.segments)


@partial(jax.jit, static_argnums=(0, 1))
def run(
    kernel: Callable[..., jax.Array], causal: bool, arrays: tuple, masks: MaskArrays
) -> tuple[jax.Array, ...]:
    """Return the output and the gradients, of the queries that see a key."""
    *qkv, d_out = arrays
    if masks.valid is not None:
        d_out = d_out * masks.valid[:, :, None, None]
    out, pullback = jax.vjp(lambda *x: kernel(*x, causal, masks), *qkv)
    return (out if masks.valid is None else out * masks.valid[:, :, None, None]), *pullback(d_out)


def assert_equal(actual: tuple[jax.Array, ...], expected: tuple[jax.Array, ...]) -> None:
    """Differences are roundings of float32: a millionth of the largest value, or of the operands.

    A query that sees one key has no gradient; its rounding error is relative to the operands.
    """
    for ours, theirs in zip(actual, expected, strict=True):
        assert np.isfinite(np.asarray(ours)).all()
        scale = max(float(jnp.abs(theirs).max()), 1.0)
        np.testing.assert_allclose(ours / scale, theirs / scale, rtol=0, atol=1e-6)


GROUPS = st.lists(
    st.tuples(st.integers(0, 14), st.lists(st.integers(1, 12), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


# One function for each value, so that each is compiled once.
BY_HEAD = {by_head: partial(by_blocks, by_head) for by_head in (False, True)}


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(GROUPS, min_size=ROWS, max_size=ROWS), by_head=st.booleans())
def test_blocks_give_the_result_and_the_gradients_of_dense_attention(
    rows: list[Groups], by_head: bool
) -> None:
    ids, prefixes, valid = (
        jnp.asarray(np.stack(x))
        for x in zip(*(packed_row(groups, LENGTH) for groups in rows), strict=True)
    )
    masks, arrays = MaskArrays(valid, Segments(ids, prefixes)), operands(LENGTH)
    assert_equal(run(BY_HEAD[by_head], True, arrays, masks), run(dense, True, arrays, masks))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("by_head", [False, True])
def test_blocks_without_segments(causal: bool, by_head: bool) -> None:
    arrays = operands(LENGTH)
    actual = run(BY_HEAD[by_head], causal, arrays, NO_MASK)
    assert_equal(actual, run(dense, causal, arrays, NO_MASK))


def test_queries_and_keys_of_different_number_and_the_last_block_is_padded() -> None:
    q, (_, k, v, _) = operands(19)[0], operands(33, 1)
    valid = jnp.asarray(np.random.default_rng(2).random((ROWS, 33)) < 0.5).at[:, 0].set(True)
    actual = by_blocks(False, q, k, v, False, MaskArrays(valid))
    expected = attention(q, k, v, key_valid=valid)
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6)


def test_a_query_that_sees_no_key_gives_zeros_and_no_gradient() -> None:
    arrays = operands(LENGTH)
    masks = MaskArrays(jnp.zeros((ROWS, LENGTH), bool))
    out, pullback = jax.vjp(lambda *x: by_blocks(False, *x, True, masks), *arrays[:3])
    for values in (out, *pullback(arrays[3])):
        np.testing.assert_array_equal(values, 0)


@pytest.mark.parametrize("causal", [False, True])
def test_splash_merges_the_prefix_and_the_own_segment(causal: bool) -> None:
    """Three blocks of queries and keys; conversations and prefixes cross their borders."""
    rows = ([(100, [40, 70, 30]), (0, [20]), (60, [30, 24])], [(150, [50, 20])])
    ids, prefixes, valid = (
        jnp.asarray(np.stack(x))
        for x in zip(*(packed_row(groups, 380) for groups in rows), strict=True)
    )
    masks, arrays = MaskArrays(valid, Segments(ids, prefixes)), operands(380)
    assert_equal(run(by_splash, causal, arrays, masks), run(dense, causal, arrays, masks))


def by_splash(
    q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, masks: MaskArrays
) -> jax.Array:
    return attention(
        q, k, v, causal=causal, key_valid=masks.valid, segments=masks.segments, backend="splash"
    )


@pytest.mark.parametrize("backend", ["splash", "blockwise"])
def test_packed_rows_on_a_mesh(backend: str) -> None:
    row = packed_row([(20, [10, 15]), (30, [8])], 100)
    ids, prefixes, valid = (jnp.asarray(np.stack([x, x])) for x in row)
    masks, arrays = MaskArrays(valid, Segments(ids, prefixes)), operands(100)

    def kernel(
        q: jax.Array, k: jax.Array, v: jax.Array, causal: bool, masks: MaskArrays
    ) -> jax.Array:
        return attention(
            *(q, k, v),
            causal=causal,
            key_valid=masks.valid,
            segments=masks.segments,
            backend="splash" if backend == "splash" else "blockwise",
        )

    with use_mesh(make_mesh(data=2, tensor=4)):
        actual = run(kernel, True, arrays, masks)
    assert_equal(tuple(map(jnp.asarray, map(np.asarray, actual))), run(dense, True, arrays, masks))


def test_memory_of_blocks_is_linear_in_the_number_of_tokens() -> None:
    def temporaries(length: int) -> int:
        shape = jax.ShapeDtypeStruct((1, length, 2, 64), jnp.float32)

        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return attention(q, k, v, causal=True, backend="blockwise").sum()

        program = jax.jit(jax.grad(loss, (0, 1, 2))).lower(shape, shape, shape).compile()
        analysis = program.memory_analysis()
        assert analysis is not None
        return analysis.temp_size_in_bytes

    assert temporaries(8192) < 2.5 * temporaries(4096)  # 4 times, if it were quadratic
