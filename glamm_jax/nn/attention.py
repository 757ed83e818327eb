"""Multi-head attention: one function that chooses the kernel (XLA, cuDNN on GPU, splash on TPU).

    attention(q, k, v, causal=True, key_valid=token_valid)

Arrays have the shape [batch, tokens, heads, width]. Masks are given by their structure, never as
arrays of T x T: `causal` (query i attends to keys 0..i), `key_valid` (padding is never attended to)
and `segments` (packed rows). Keys and values may have fewer heads than queries (grouped-query
attention): a key head serves as many adjacent query heads as there are for each.
"""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.parallel import constrain, current_mesh, partition_spec, platform

Backend = Literal["auto", "xla", "cudnn", "splash"]

# On the CPU at most this many scores (of one head) are computed at once; larger score matrices are
# computed in blocks of queries, so that the scores of a block stay in the cache.
_CPU_BLOCK_SCORES = 2**18
# Up to this many scores per row (a window of SAM, say) all heads of a row are computed together:
# one large matrix product is twice as fast there as sixteen small ones.
_CPU_ROW_SCORES = 2**20
_MASKED_SCORE = -1e30


class Segments(NamedTuple):
    """Segments of packed rows, which hold several conversations, some with a common prefix.

    A token attends to the keys whose segment is its own or its prefix: attention to its own segment
    and attention to the prefix. Flash kernels can mask each with one integer per token and merge
    both by their log-sum-exp.

    Attributes:
        ids: the segment of each token.
        prefix_ids: the segment that the token attends to besides its own; -1: none.
    """

    ids: Int[Array, "b t"]
    prefix_ids: Int[Array, "b t"]


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
        segments: segments of the tokens, which are queries and keys alike. XLA only.
        backend: the kernel; "auto" chooses by the platform that is compiled for.

    Raises:
        ValueError: the backend does not exist or does not support segments.
    """
    if segments is not None:
        if backend not in ("auto", "xla"):
            raise ValueError(f"attention backend {backend!r} does not support segments; use xla")
        backend = "xla"
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    axes = ("batch", None, "heads", None)
    q, k, v = constrain(q, *axes), constrain(k, *axes), constrain(v, *axes)
    if backend == "auto":
        backend = choose_backend(q, k, v)
    if backend == "splash":
        out = _splash_attention(q * jnp.asarray(factor, q.dtype), k, v, causal, key_valid)
    elif backend == "cudnn":
        out = _cudnn_attention(q, k, v, factor, causal, key_valid)
    elif backend == "xla":
        keys = _KeyInfo(key_valid, segments)
        k, v = repeat_heads(k, q.shape[2]), repeat_heads(v, q.shape[2])
        out = _xla_attention(q * jnp.asarray(factor, q.dtype), k, v, causal, keys)
    else:
        raise ValueError(f"unknown attention backend {backend!r}: auto, xla, cudnn or splash")
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
    scores = jnp.where(key_valid[:, None], scores, _MASKED_SCORE)
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
    scores = jnp.where(key_valid[:, None, None], scores, _MASKED_SCORE)
    own_score = jnp.einsum("bmgk,bmk->bmg", q, k, preferred_element_type=jnp.float32)[..., None]
    weights = jax.nn.softmax(jnp.concatenate([scores, own_score], axis=-1), axis=-1).astype(v.dtype)
    out = jnp.einsum("bmgs,bmsk->bmgk", weights[..., :-1], values)
    return (out + weights[..., -1:] * v[:, :, None]).reshape(b, n, v.shape[-1])


def repeat_heads(x: Float[Array, "b s m k"], num_heads: int) -> Float[Array, "b s n k"]:
    """Repeat every head of keys or values for the group of query heads that it serves."""
    return x if x.shape[2] == num_heads else jnp.repeat(x, num_heads // x.shape[2], axis=2)


def choose_backend(q: Array, k: Array, v: Array) -> Backend:
    """Return cuDNN for half precision on GPU, splash for long sequences on TPU, else XLA.

    Args:
        q: queries, as in `attention`.
        k: keys.
        v: values.
    """
    target = platform()
    widths = {q.shape[-1], k.shape[-1], v.shape[-1]}
    if target == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16):
        limit = 256 if _compute_capability() >= 9.0 else 128
        return "cudnn" if max(widths) <= limit and q.shape[1] > 1 else "xla"
    if target == "tpu" and q.shape[1] % 128 == 0 and k.shape[1] % 128 == 0:
        return "splash"
    return "xla"


def _compute_capability() -> float:
    return float(getattr(jax.local_devices()[0], "compute_capability", 0.0))


# ---------------------------------------------------------------------------- cuDNN


def _cudnn_attention(
    q: Array, k: Array, v: Array, scale: float, causal: bool, key_valid: Array | None
) -> Array:
    """Pad all widths to one multiple of 8, as cuDNN's flash attention requires, and run it."""
    width = math.ceil(max(q.shape[-1], v.shape[-1]) / 8) * 8
    pad = lambda x: jnp.pad(x, ((0, 0),) * 3 + ((0, width - x.shape[-1]),))  # noqa: E731
    mask = None if key_valid is None else key_valid[:, None, None, :]
    out = jax.nn.dot_product_attention(
        pad(q), pad(k), pad(v), mask=mask, scale=scale, is_causal=causal, implementation="cudnn"
    )
    return out[..., : v.shape[-1]]


# ---------------------------------------------------------------------------- XLA


class _KeyInfo(NamedTuple):
    """What the mask depends on besides causality; every array has the batch axis first."""

    valid: Array | None  # bool[b, s]
    segments: Segments | None  # of the keys


class _QueryInfo(NamedTuple):
    """What the mask depends on, for a block of queries."""

    positions: Array | None  # int[t], in the sequence; None: not causal
    segments: Segments | None


def _xla_attention(q: Array, k: Array, v: Array, causal: bool, keys: _KeyInfo) -> Array:
    """Choose how much is computed at once; q is already scaled."""
    positions = jnp.arange(q.shape[1]) if causal else None
    queries = _QueryInfo(positions, keys.segments)
    if platform() != "cpu" or current_mesh() is not None or q.shape[1] == 1:
        return _dense_attention(q, k, v, queries, keys)
    row_scores = q.shape[1] * k.shape[1] * q.shape[2]
    if q.shape[0] * row_scores <= _CPU_ROW_SCORES:
        return _dense_attention(q, k, v, queries, keys)
    if row_scores <= _CPU_ROW_SCORES:
        return _rowwise_attention(q, k, v, positions, keys)
    return _blockwise_attention(q, k, v, causal, keys)


def _dense_attention(q: Array, k: Array, v: Array, queries: _QueryInfo, keys: _KeyInfo) -> Array:
    """Compute all scores at once; q is already scaled."""
    scores = jnp.einsum("btnk,bsnk->bnts", q, k, preferred_element_type=jnp.float32)
    mask = _attention_mask(queries, keys, k.shape[1])
    if mask is not None:
        scores = jnp.where(mask, scores, _MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bnts,bsnk->btnk", weights, v)


def _attention_mask(queries: _QueryInfo, keys: _KeyInfo, num_keys: int) -> Array | None:
    """Return bool, broadcastable to [b, n, t, s]; None: every key is visible to every query."""
    masks = []
    if queries.positions is not None:
        masks.append((jnp.arange(num_keys)[None, :] <= queries.positions[:, None])[None, None])
    if keys.valid is not None:
        masks.append(keys.valid[:, None, None, :])
    if queries.segments is not None and keys.segments is not None:
        key_ids = keys.segments.ids[:, None, None, :]
        query_ids, prefix_ids = (x[:, None, :, None] for x in queries.segments)
        masks.append((key_ids == query_ids) | (key_ids == prefix_ids))
    return functools.reduce(jnp.logical_and, masks) if masks else None


def _rowwise_attention(
    q: Array, k: Array, v: Array, positions: Array | None, keys: _KeyInfo
) -> Array:
    """Compute the rows of the batch one after another, all heads of a row at once."""

    @jax.checkpoint
    def row(item: tuple) -> Array:
        q, k, v, keys = jax.tree.map(lambda x: x[None], item)
        return _dense_attention(q, k, v, _QueryInfo(positions, keys.segments), keys)[0]

    return jax.lax.map(row, (q, k, v, keys))


def _blockwise_attention(q: Array, k: Array, v: Array, causal: bool, keys: _KeyInfo) -> Array:
    """Compute one (row, head) after another, in blocks of queries that fit the CPU's cache."""
    b, t, n, width = q.shape
    s = k.shape[1]
    block = min(t, max(16, _CPU_BLOCK_SCORES // s))
    padded = math.ceil(t / block) * block
    heads = lambda x: x.transpose(0, 2, 1, 3).reshape(b * n, x.shape[1], x.shape[3])  # noqa: E731
    queries = jnp.pad(heads(q), ((0, 0), (0, padded - t), (0, 0)))
    queries = queries.reshape(b * n, padded // block, block, width)
    keys = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), keys)

    def split_blocks(x: Array) -> Array:
        return jnp.pad(x, (0, padded - t)).reshape(padded // block, block)

    def head(item: tuple) -> Array:
        queries, k, v, keys = item
        keys = jax.tree.map(lambda x: x[None], keys)

        @jax.checkpoint
        def query_block(item: tuple) -> Array:
            queries, start, segments = item
            scores = jnp.dot(queries, k.T, preferred_element_type=jnp.float32)
            positions = start + jnp.arange(block) if causal else None
            segments = jax.tree.map(lambda x: x[None], segments)
            mask = _attention_mask(_QueryInfo(positions, segments), keys, s)
            if mask is not None:
                scores = jnp.where(mask[0, 0], scores, _MASKED_SCORE)
            max_score = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - max_score)
            total = weights.sum(-1, keepdims=True)
            return (jnp.dot(weights.astype(v.dtype), v) / total).astype(v.dtype)

        segments = jax.tree.map(lambda x: split_blocks(x[0]), keys.segments)
        return jax.lax.map(query_block, (queries, jnp.arange(0, padded, block), segments))

    out = jax.lax.map(head, (queries, heads(k), heads(v), keys))
    out = out.reshape(b, n, padded, v.shape[-1])[:, :, :t]
    return out.transpose(0, 2, 1, 3)


# ---------------------------------------------------------------------------- TPU splash


def _splash_attention(q: Array, k: Array, v: Array, causal: bool, key_valid: Array | None) -> Array:
    """Run splash attention on the rows and heads of each device, widths padded to 128 lanes."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    b, t, n, _ = q.shape
    s, value_width = k.shape[1], v.shape[-1]
    lanes = math.ceil(max(q.shape[-1], value_width) / 128) * 128
    pad = lambda x: jnp.pad(x, ((0, 0),) * 3 + ((0, lanes - x.shape[-1]),))  # noqa: E731
    heads_first = lambda x: pad(x).transpose(0, 2, 1, 3)  # noqa: E731
    if key_valid is None:
        key_valid = jnp.ones((b, s), bool)

    def local(q: Array, k: Array, v: Array, valid: Array) -> Array:
        heads = q.shape[1]  # the kernel groups them by the number of key heads
        mask = masks.CausalMask((t, s)) if causal else masks.FullMask((t, s))
        kernel = splash.make_splash_mha(
            mask=masks.MultiHeadMask([mask] * heads),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=splash.BlockSizes(**_block_sizes(t, s)),
            interpret=platform() != "tpu",
        )
        # A padded query still attends to the valid keys, so every query belongs to segment 1.
        segments = jax.vmap(
            lambda valid: splash.SegmentIds(jnp.ones(t, jnp.int32), valid.astype(jnp.int32))
        )(valid)
        out: Any = jax.vmap(kernel)(q, k, v, segments)
        return out

    run = local
    mesh = current_mesh()
    if mesh is not None:
        axes = ("batch", "heads", None, None)
        spec = partition_spec(axes, (b, n, t, lanes))
        if partition_spec(axes, (b, k.shape[2], s, lanes)) != spec:
            # Devices share key heads; with one for each query head, no group is divided.
            k, v = repeat_heads(k, n), repeat_heads(v, n)
        rows = partition_spec(("batch", None), (b, s))
        run = jax.shard_map(
            local, mesh=mesh, in_specs=(spec, spec, spec, rows), out_specs=spec, check_vma=False
        )
    out = run(heads_first(q), heads_first(k), heads_first(v), key_valid)
    return out[..., :value_width].transpose(0, 2, 1, 3)


def _block_sizes(t: int, s: int) -> dict[str, Any]:
    """Return splash's blocks of queries and keys, forward and backward; they divide t and s."""
    queries, keys = _block_size(t, limit=512), _block_size(s, limit=512)
    return {
        **dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), queries),
        **dict.fromkeys(("block_kv", "block_kv_dkv", "block_kv_dq"), keys),
        **dict.fromkeys(("block_kv_compute", "block_kv_dkv_compute"), keys),
    }


def _block_size(length: int, limit: int) -> int:
    """Return the largest multiple of 128 that divides the length and is at most the limit."""
    return max(size for size in range(128, limit + 1, 128) if length % size == 0)
