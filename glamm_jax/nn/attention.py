"""Multi-head attention: one function that chooses the kernel.

    attention(q, k, v, causal=True, key_valid=token_valid)

Arrays have the shape [batch, tokens, heads, width]. Masks are given by their structure, never as
arrays of T x T: `causal` (query i attends to keys 0..i), `key_valid` (padding is never attended to)
and `segments` (packed rows). Keys and values may have fewer heads than queries (grouped-query
attention): a key head serves as many adjacent query heads as there are for each, and is not
repeated. `glamm_jax.nn.attention_kernels` has the table of the kernels and their chips.
"""

from __future__ import annotations

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from glamm_jax.nn.attention_kernels import AttentionSize, Kernel, chip_family, choose_kernel
from glamm_jax.nn.attention_mask import MASKED_SCORE, MaskArrays, Segments, visible_keys
from glamm_jax.nn.blockwise_attention import blockwise_attention
from glamm_jax.nn.splash_attention import splash_attention
from glamm_jax.parallel import constrain, current_mesh, platform

Backend = Literal["auto", Kernel]

# On the CPU at most this many scores are computed at once; more are computed one row, or one block
# of one head, after another, so that they stay in the cache. All heads of a row together are faster
# up to this many scores (a window of SAM, say): one large matrix product instead of sixteen.
_CPU_ROW_SCORES = 2**20


def attention(
    q: Float[Array, "b t n k"],
    k: Float[Array, "b s m k"],
    v: Float[Array, "b s m k2"],
    *,
    scale: float | None = None,
    causal: bool = False,
    key_valid: Bool[Array, "b s"] | None = None,
    segments: Segments | None = None,
    backend: Backend = "auto",
) -> Float[Array, "b t n k2"]:
    """Compute softmax(scale q k^T + mask) v, with the softmax in float32.

    Args:
        q: queries.
        k: keys; their number of heads divides that of the queries.
        v: values, of as many heads; their width may differ from that of the keys.
        scale: factor of the scores; None: 1/sqrt(width).
        causal: query i attends to keys 0..i; both sequences start at the same token.
        key_valid: False keys are never attended to. Padded queries still attend to valid keys, as
            in the original. A query without any visible key gives a finite, meaningless vector.
        segments: segments of the tokens, which are queries and keys alike.
        backend: the kernel; "auto" chooses by the chip that is compiled for and by the size.

    Raises:
        ValueError: the backend does not exist.
    """
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    axes = ("batch", None, "heads", None)
    q, k, v = constrain(q, *axes), constrain(k, *axes), constrain(v, *axes)
    masks = MaskArrays(key_valid, segments)
    if backend == "auto":
        backend = _chosen_kernel(q, k, v, segments is not None)
    if backend == "cudnn":
        out = _cudnn_attention(q, k, v, factor, causal, masks)
        return constrain(out, *axes)
    q = q * jnp.asarray(factor, q.dtype)
    if backend == "splash":
        out = splash_attention(q, k, v, causal, masks)
    elif backend == "blockwise":
        out = blockwise_attention(q, k, v, causal, masks, by_head=_is_local_cpu())
    elif backend == "dense":
        out = _dense_attention(q, k, v, causal, masks)
    else:
        raise ValueError(
            f"unknown attention backend {backend!r}: auto, dense, blockwise, cudnn or splash"
        )
    return constrain(out, *axes)


def decode_attention(
    q: Float[Array, "b 1 n k"],
    k: Float[Array, "b 1 m k"],
    v: Float[Array, "b 1 m k"],
    keys: Float[Array, "b m s k"],
    values: Float[Array, "b m s k"],
    key_valid: Bool[Array, "b s"],
) -> Float[Array, "b 1 n k"]:
    """Compute the attention of one new token per row to a cache and to itself.

    A group of query heads reads the keys of its head together: the cache is not repeated.
    The softmax is in float32, as in `attention`.

    Args:
        q: query of the new token.
        k: its key, which need not be in the cache yet.
        v: its value, likewise.
        keys: cached keys; heads come first, so that the keys of one head are contiguous.
        values: cached values.
        key_valid: False cached keys are never attended to.
    """
    axes = ("batch", "heads", None)
    squeeze = lambda x: constrain(x[:, 0], *axes)  # noqa: E731
    q, k, v = squeeze(q) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), squeeze(k), squeeze(v)
    keys, values = constrain(keys, *axes, None), constrain(values, *axes, None)
    if q.shape[1] != k.shape[1]:
        return constrain(_grouped_step(q, k, v, keys, values, key_valid), *axes)[:, None]
    scores = jnp.einsum("bnk,bnsk->bns", q, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(key_valid[:, None], scores, MASKED_SCORE)
    own_score = jnp.einsum("bnk,bnk->bn", q, k, preferred_element_type=jnp.float32)[..., None]
    weights = jax.nn.softmax(jnp.concatenate([scores, own_score], axis=-1), axis=-1).astype(v.dtype)
    out = jnp.einsum("bns,bnsk->bnk", weights[..., :-1], values) + weights[..., -1:] * v
    return constrain(out, *axes)[:, None]


def _grouped_step(
    q: Array, k: Array, v: Array, keys: Array, values: Array, key_valid: Array
) -> Array:
    """Compute `decode_attention` for fewer key heads than query heads; q is already scaled."""
    b, n, width = q.shape
    q = q.reshape(b, k.shape[1], n // k.shape[1], width)
    scores = jnp.einsum("bmgk,bmsk->bmgs", q, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(key_valid[:, None, None], scores, MASKED_SCORE)
    own_score = jnp.einsum("bmgk,bmk->bmg", q, k, preferred_element_type=jnp.float32)[..., None]
    weights = jax.nn.softmax(jnp.concatenate([scores, own_score], axis=-1), axis=-1).astype(v.dtype)
    out = jnp.einsum("bmgs,bmsk->bmgk", weights[..., :-1], values)
    return (out + weights[..., -1:] * v[:, :, None]).reshape(b, n, v.shape[-1])


def _chosen_kernel(q: Array, k: Array, v: Array, is_packed: bool) -> Kernel:
    """Choose the kernel for these operands on the chip that is compiled for."""
    size = AttentionSize(
        queries=q.shape[1],
        keys=k.shape[1],
        width=max(q.shape[-1], v.shape[-1]),
        is_half=q.dtype in (jnp.bfloat16, jnp.float16),
        is_packed=is_packed,
    )
    kernel = choose_kernel(chip_family(), size)
    if kernel == "dense" and _is_local_cpu():
        row_scores = size.queries * size.keys * q.shape[2]
        return "dense" if size.queries == 1 or row_scores <= _CPU_ROW_SCORES else "blockwise"
    return kernel


def _is_local_cpu() -> bool:
    """Whether one CPU computes all rows and heads."""
    return platform() == "cpu" and current_mesh() is None


# ---------------------------------------------------------------------------- cuDNN


def _cudnn_attention(
    q: Array, k: Array, v: Array, scale: float, causal: bool, masks: MaskArrays
) -> Array:
    """Pad all widths to one multiple of 8, as cuDNN's flash attention requires, and run it."""
    width = math.ceil(max(q.shape[-1], v.shape[-1]) / 8) * 8
    pad = lambda x: jnp.pad(x, ((0, 0),) * 3 + ((0, width - x.shape[-1]),))  # noqa: E731
    visible = visible_keys(False, masks, 0, q.shape[1], 0, k.shape[1])
    mask = None if visible is None else visible[:, None]
    out = jax.nn.dot_product_attention(
        pad(q), pad(k), pad(v), mask=mask, scale=scale, is_causal=causal, implementation="cudnn"
    )
    return out[..., : v.shape[-1]]


# ---------------------------------------------------------------------------- all scores at once


def _dense_attention(q: Array, k: Array, v: Array, causal: bool, masks: MaskArrays) -> Array:
    """Compute all scores at once, on the CPU of one row after another; q is already scaled."""
    scores = q.shape[0] * q.shape[1] * k.shape[1] * q.shape[2]
    if not _is_local_cpu() or q.shape[1] == 1 or scores <= _CPU_ROW_SCORES:
        return _all_rows(q, k, v, causal, masks)

    @jax.checkpoint
    def row(item: tuple) -> Array:
        q, k, v, masks = jax.tree.map(lambda x: x[None], item)
        return _all_rows(q, k, v, causal, masks)[0]

    return jax.lax.map(row, (q, k, v, masks))


def _all_rows(q: Array, k: Array, v: Array, causal: bool, masks: MaskArrays) -> Array:
    """Compute all scores; a key head and its group of query heads are one matrix product."""
    b, t, n, width = q.shape
    q = q.reshape(b, t, k.shape[2], n // k.shape[2], width)
    scores = jnp.einsum("btmgk,bsmk->bmgts", q, k, preferred_element_type=jnp.float32)
    visible = visible_keys(causal, masks, 0, t, 0, k.shape[1])
    if visible is not None:
        scores = jnp.where(visible[:, None, None], scores, MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bmgts,bsmk->btmgk", weights, v).reshape(b, t, n, v.shape[-1])
