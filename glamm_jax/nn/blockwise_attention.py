"""Attention whose memory is linear in the number of tokens, on every platform.

Scores are computed for one block of queries and one block of keys at a time. A running maximum and
a running sum merge the blocks of keys; the backward pass computes the scores again, from the
log-sum-exp of each query. Blocks without any visible pair (behind a causal query, of other segments
of a packed row, padding) are not computed.

Source: FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from glamm_jax.nn.attention_mask import MASKED_SCORE, MaskArrays, Segments, visible_keys

# A running maximum starts above the masked score, so that a masked pair has no weight at all.
_LOWEST_MAX = MASKED_SCORE / 10
_NO_SEGMENT = -2  # of padded queries: no key has it, so they make no block visible
# Tokens of a block of queries and of one of keys. On the CPU the scores of one head fit its cache;
# elsewhere a block has all rows and heads, and few large products are faster.
_CPU_BLOCKS = (256, 256)
_DEVICE_BLOCKS = (512, 512)


class _Static(NamedTuple):
    """What the program depends on.

    Attributes:
        causal: query i attends to keys 0..i.
        query_block: queries of a block; it divides their number.
        key_block: keys of a block; it divides their number.
        by_head: compute one row and key head after another.
    """

    causal: bool
    query_block: int
    key_block: int
    by_head: bool


class _VisibleBlocks(NamedTuple):
    """The blocks of keys to compute for each block of queries; none are masked completely.

    Attributes:
        order: their indices, the visible ones first.
        count: number of visible ones.
    """

    order: Int[Array, "b i j"]
    count: Int[Array, "b i"]


def blockwise_attention(
    q: Float[Array, "b t n k"],
    k: Float[Array, "b s m k"],
    v: Float[Array, "b s m k2"],
    causal: bool,
    masks: MaskArrays,
    *,
    by_head: bool = False,
    blocks: tuple[int, int] | None = None,
) -> Float[Array, "b t n k2"]:
    """Compute softmax(q k^T + mask) v in blocks, with the softmax in float32.

    A query that sees no key gives zeros.

    Args:
        q: queries, already scaled.
        k: keys; a head serves as many adjacent query heads as there are for each.
        v: values.
        causal: query i attends to keys 0..i.
        masks: valid keys and segments.
        by_head: compute one row and key head after another, as is fast on the CPU, and skip the
            blocks of each row; else all at once, and skip the blocks that no row needs.
        blocks: queries and keys of a block; None: by the platform.
    """
    t, s, groups = q.shape[1], k.shape[1], k.shape[2]
    limits = blocks or (_CPU_BLOCKS if by_head else _DEVICE_BLOCKS)
    sizes = _even_block(t, limits[0]), _even_block(s, limits[1])
    static = _Static(causal, *sizes, by_head)
    padded_t, padded_s = (math.ceil(x / y) * y for x, y in zip((t, s), sizes, strict=True))
    if padded_s > s and masks.valid is None:
        masks = masks._replace(valid=jnp.ones((q.shape[0], s), bool))
    masks = _pad_masks(masks, padded_t, padded_s)
    visible = _visible_blocks(static, masks, q.shape[0], padded_t, padded_s)
    q = _pad_tokens(q, padded_t).reshape(q.shape[0], padded_t, groups, -1, q.shape[-1])
    out: Any = _attend(
        static,
        q.transpose(0, 2, 3, 1, 4),
        _pad_tokens(k, padded_s).transpose(0, 2, 1, 3),
        _pad_tokens(v, padded_s).transpose(0, 2, 1, 3),
        masks,
        visible,
    )
    out = out.transpose(0, 3, 1, 2, 4).reshape(*out.shape[:1], padded_t, -1, v.shape[-1])
    return out[:, :t]


def _even_block(length: int, limit: int) -> int:
    """Return the size of as few blocks of at most the limit as hold the length, all alike."""
    return math.ceil(length / math.ceil(length / limit))


def _pad_tokens(x: Array, length: int, value: int = 0) -> Array:
    padding = ((0, 0), (0, length - x.shape[1])) + ((0, 0),) * (x.ndim - 2)
    return jnp.pad(x, padding, constant_values=value)


def _pad_masks(masks: MaskArrays, num_queries: int, num_keys: int) -> MaskArrays:
    """Pad the arrays; padded keys are invalid. Segments are of queries and keys alike."""
    valid, segments = masks
    if valid is not None:
        valid = _pad_tokens(valid, num_keys)
    if segments is not None:
        length = max(num_queries, num_keys)
        segments = Segments(*(_pad_tokens(x, length, _NO_SEGMENT) for x in segments))
    return MaskArrays(valid, segments)


def _visible_blocks(
    static: _Static, masks: MaskArrays, num_rows: int, num_queries: int, num_keys: int
) -> _VisibleBlocks:
    """Find the blocks with a visible pair, one block of queries after another."""
    i, j = num_queries // static.query_block, num_keys // static.key_block
    if masks.is_empty:
        last = (np.arange(i) + 1) * static.query_block - 1
        starts = np.arange(j) * static.key_block
        shown = np.broadcast_to(starts <= last[:, None] if static.causal else True, (1, i, j))
        any_visible: Array = jnp.asarray(shown)
    else:

        def one(index: Array) -> Array:
            size, start = static.query_block, index * static.query_block
            pairs = visible_keys(static.causal, masks, start, size, 0, num_keys)
            assert pairs is not None
            return pairs.reshape(*pairs.shape[:2], j, static.key_block).any((1, 3))

        any_visible = jax.lax.map(one, jnp.arange(i)).transpose(1, 0, 2)
    if not static.by_head:
        any_visible = any_visible.any(0, keepdims=True)
    any_visible = jnp.broadcast_to(any_visible, (num_rows if static.by_head else 1, i, j))
    order = jnp.argsort(~any_visible, axis=-1, stable=True)
    return _VisibleBlocks(order, any_visible.sum(-1))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    static: _Static,
    q: Float[Array, "b m g t k"],
    k: Float[Array, "b m s k"],
    v: Float[Array, "b m s k2"],
    masks: MaskArrays,
    visible: _VisibleBlocks,
) -> Float[Array, "b m g t k2"]:
    return _attend_forward(static, q, k, v, masks, visible)[0]


def _attend_forward(
    static: _Static, q: Array, k: Array, v: Array, masks: MaskArrays, visible: _VisibleBlocks
) -> tuple[Array, tuple]:
    run = _by_head(_forward) if static.by_head else _forward
    out, logsumexp = run(static, (q, k, v), masks, visible)
    return out, (q, k, v, masks, visible, out, logsumexp)


def _attend_backward(static: _Static, saved: tuple, d_out: Array) -> tuple:
    q, k, v, masks, visible, out, logsumexp = saved
    # Of each query: the sum of its weights times their gradients.
    delta = jnp.einsum("bmgtk,bmgtk->bmgt", out, d_out, preferred_element_type=jnp.float32)
    run = _by_head(_backward) if static.by_head else _backward
    dq, dk, dv = run(static, (q, k, v, d_out, logsumexp, delta), masks, visible)
    return dq, dk, dv, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _by_head(function):  # of _forward and _backward alike
    """Apply a function to one row and key head after another."""

    def run(static: _Static, arrays: tuple, masks: MaskArrays, visible: _VisibleBlocks) -> tuple:
        def row(item: tuple) -> tuple:
            arrays, masks, visible = item
            masks, visible = jax.tree.map(lambda x: x[None], (masks, visible))

            def head(arrays: tuple) -> tuple:
                arrays = jax.tree.map(lambda x: x[None, None], arrays)
                return jax.tree.map(lambda x: x[0, 0], function(static, arrays, masks, visible))

            return jax.lax.map(head, arrays)

        return jax.lax.map(row, (arrays, masks, visible))

    return run


def _forward(
    static: _Static, arrays: tuple, masks: MaskArrays, visible: _VisibleBlocks
) -> tuple[Array, Array]:
    """Return the output and the log-sum-exp of the scores of each query (0: it sees no key)."""
    q, k, v = arrays
    size = static.query_block
    shape = (*q.shape[:3], size)

    def query_block(index: Array) -> tuple[Array, Array]:
        queries = _query_block(q, index, size)

        def key_block(number: Array, carry: tuple) -> tuple:
            top, total, out = carry
            block = visible.order[0, index, number]
            scores = _scores(static, queries, k, masks, index, block)
            new_top = jnp.maximum(top, scores.max(-1))
            weights = jnp.exp(scores - new_top[..., None])
            shrink = jnp.exp(top - new_top)
            values = _key_block(v, block, static.key_block)
            product = _product("bmgqs,bmsk->bmgqk", weights.astype(v.dtype), values)
            total = total * shrink + weights.sum(-1)
            return new_top, total, out * shrink[..., None] + product

        start = (
            jnp.full(shape, _LOWEST_MAX, jnp.float32),
            jnp.zeros(shape, jnp.float32),
            jnp.zeros((*shape, v.shape[-1]), jnp.float32),
        )
        top, total, out = jax.lax.fori_loop(0, visible.count[0, index], key_block, start)
        is_visible = total > 0
        total = jnp.where(is_visible, total, 1.0)
        out = (out / total[..., None]).astype(v.dtype)
        return out, jnp.where(is_visible, top + jnp.log(total), 0.0)

    out, logsumexp = jax.lax.map(query_block, jnp.arange(q.shape[3] // size))
    return _join(out), _join(logsumexp)


def _backward(
    static: _Static, arrays: tuple, masks: MaskArrays, visible: _VisibleBlocks
) -> tuple[Array, Array, Array]:
    """Return the gradients of queries, keys and values; sums are in float32."""
    q, k, v, d_out, logsumexp, delta = arrays
    size = static.query_block

    def query_block(carry: tuple, index: Array) -> tuple[tuple, Array]:
        queries, d_outs, sums, deltas = (
            _query_block(x, index, size) for x in (q, d_out, logsumexp, delta)
        )

        def key_block(number: Array, carry: tuple) -> tuple:
            dq, dk, dv = carry
            block = visible.order[0, index, number]
            scores = _scores(static, queries, k, masks, index, block)
            weights = jnp.exp(scores - sums[..., None])
            keys, values = (_key_block(x, block, static.key_block) for x in (k, v))
            d_values = _product("bmgqs,bmgqk->bmsk", weights.astype(v.dtype), d_outs)
            d_weights = _product("bmgqk,bmsk->bmgqs", d_outs, values)
            d_scores = (weights * (d_weights - deltas[..., None])).astype(q.dtype)
            d_keys = _product("bmgqs,bmgqk->bmsk", d_scores, queries)
            dq = dq + _product("bmgqs,bmsk->bmgqk", d_scores, keys)
            return dq, _add(dk, d_keys, block), _add(dv, d_values, block)

        start = (jnp.zeros(queries.shape, jnp.float32), *carry)
        dq, dk, dv = jax.lax.fori_loop(0, visible.count[0, index], key_block, start)
        return (dk, dv), dq.astype(q.dtype)

    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (k, v))
    (dk, dv), dq = jax.lax.scan(query_block, zeros, jnp.arange(q.shape[3] // size))
    return _join(dq), dk.astype(k.dtype), dv.astype(v.dtype)


def _scores(
    static: _Static, queries: Array, k: Array, masks: MaskArrays, index: Array, block: Array
) -> Array:
    """Return the masked scores of a block of queries and a block of keys."""
    scores = _product("bmgqk,bmsk->bmgqs", queries, _key_block(k, block, static.key_block))
    sizes = static.query_block, static.key_block
    pairs = visible_keys(
        static.causal, masks, index * sizes[0], sizes[0], block * sizes[1], sizes[1]
    )
    return scores if pairs is None else jnp.where(pairs[:, None, None], scores, MASKED_SCORE)


def _product(spec: str, x: Array, y: Array) -> Array:
    return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)


def _query_block(x: Array, index: Array, size: int) -> Array:
    """Cut a block out of what every query has: [b, m, g, t, ...]."""
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=3)


def _key_block(x: Float[Array, "b m s k"], index: Array, size: int) -> Array:
    """Cut a block out of keys or values."""
    return jax.lax.dynamic_slice_in_dim(x, index * size, size, axis=2)


def _add(x: Float[Array, "b m s k"], block: Array, index: Array) -> Array:
    """Add a block of keys in place."""
    size = block.shape[2]
    before = _key_block(x, index, size)
    return jax.lax.dynamic_update_slice_in_dim(x, before + block, index * size, axis=2)


def _join(blocks: Array) -> Array:
    """Join blocks of queries, stacked in front: [i, b, m, g, q, ...] -> [b, m, g, i * q, ...]."""
    joined = jnp.moveaxis(blocks, 0, 3)
    return joined.reshape(*joined.shape[:3], -1, *joined.shape[5:])
