"""One attention function; it picks the kernel: XLA, cuDNN on GPU, splash on TPU.

    attention(q, k, v, causal=True, key_valid=token_valid)

Shapes are [batch, tokens, heads, width]. The mask is structure, never a T x T array: `causal`
(query i sees keys 0..i), `key_valid` (padding is seen by nobody) and `segments` (packed rows).
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

# Scores of at most this many numbers (one head, all queries) are formed at once on the CPU; above
# it attention runs block by block, so that a block's scores stay in the cache.
_CPU_BLOCK_SCORES = 2**18
# Up to this many scores all heads of a row (a window of SAM, say) are worked on together: one
# large product is twice as fast there as sixteen small ones.
_CPU_ROW_SCORES = 2**20
_NEGATIVE = -1e30


class Segments(NamedTuple):
    """Who sees whom in rows that hold several conversations, some behind a common prefix.

    A token sees the keys whose `own` is its own or its `prefix`: attention to the own segment and
    attention to that of the prefix, which flash kernels can mask each by one integer a token and
    merge by their log-sum-exp. -1 in `prefix`: none.
    """

    own: Int[Array, "b t"]
    prefix: Int[Array, "b t"]


def attention(
    q: Float[Array, "b t n k"],
    k: Float[Array, "b s n k"],
    v: Float[Array, "b s n k2"],
    *,
    scale: float | None = None,
    causal: bool = False,
    key_valid: Bool[Array, "b s"] | None = None,
    segments: Segments | None = None,
    backend: Backend = "auto",
) -> Float[Array, "b t n k2"]:
    """softmax(scale q k^T + mask) v, with the softmax in float32.

    Args:
        scale: 1/sqrt(width) unless given.
        causal: query i sees keys 0..i; both sequences start at the same token.
        key_valid: False keys are seen by nobody. Padded queries still look at valid keys, as in
            the original; a query that sees no key at all gives some finite, meaningless vector.
        segments: of queries and keys alike, which are the same tokens. XLA only so far.
        backend: "auto" asks jax which device it compiles for.

    Raises: ValueError for a backend that does not exist, or one that knows no segments.
    """
    if segments is not None:
        if backend not in ("auto", "xla"):
            raise ValueError(f"the attention backend {backend!r} knows no segments; use xla")
        backend = "xla"
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    axes = ("batch", None, "heads", None)
    q, k, v = constrain(q, *axes), constrain(k, *axes), constrain(v, *axes)
    if backend == "auto":
        backend = choose_backend(q, k, v)
    if backend == "splash":
        out = _splash(q * jnp.asarray(factor, q.dtype), k, v, causal, key_valid)
    elif backend == "cudnn":
        out = _cudnn(q, k, v, factor, causal, key_valid)
    elif backend == "xla":
        keys = _Keys(key_valid, segments)
        out = _xla(q * jnp.asarray(factor, q.dtype), k, v, causal, keys)
    else:
        raise ValueError(f"no attention backend {backend!r}: auto, xla, cudnn or splash")
    return constrain(out, *axes)


def attend_one(
    q: Float[Array, "b 1 n k"],
    k: Float[Array, "b 1 n k"],
    v: Float[Array, "b 1 n k"],
    keys: Float[Array, "b n s k"],
    values: Float[Array, "b n s k"],
    key_valid: Bool[Array, "b s"],
) -> Float[Array, "b 1 n k"]:
    """Attention of one token a row to the valid ones before it and to itself.

    What came before is laid out head by head, so that each head reads its keys in one go; the
    token's own key and value need not be there yet. Softmax in float32, as in `attention`.
    """
    axes = ("batch", "heads", None)
    one = lambda x: constrain(x[:, 0], *axes)  # noqa: E731
    q, k, v = one(q) * jnp.asarray(q.shape[-1] ** -0.5, q.dtype), one(k), one(v)
    keys, values = constrain(keys, *axes, None), constrain(values, *axes, None)
    scores = jnp.einsum("bnk,bnsk->bns", q, keys, preferred_element_type=jnp.float32)
    scores = jnp.where(key_valid[:, None], scores, _NEGATIVE)
    own = jnp.einsum("bnk,bnk->bn", q, k, preferred_element_type=jnp.float32)[..., None]
    weights = jax.nn.softmax(jnp.concatenate([scores, own], axis=-1), axis=-1).astype(v.dtype)
    out = jnp.einsum("bns,bnsk->bnk", weights[..., :-1], values) + weights[..., -1:] * v
    return constrain(out, *axes)[:, None]


def choose_backend(q: Array, k: Array, v: Array) -> Backend:
    """cuDNN for half precision on GPUs, splash for long sequences on TPUs, XLA elsewhere."""
    found = platform()
    widths = {q.shape[-1], k.shape[-1], v.shape[-1]}
    if found == "gpu" and q.dtype in (jnp.bfloat16, jnp.float16):
        limit = 256 if _compute_capability() >= 9.0 else 128
        return "cudnn" if max(widths) <= limit and q.shape[1] > 1 else "xla"
    if found == "tpu" and q.shape[1] % 128 == 0 and k.shape[1] % 128 == 0:
        return "splash"
    return "xla"


def _compute_capability() -> float:
    return float(getattr(jax.local_devices()[0], "compute_capability", 0.0))


# ---------------------------------------------------------------------------- cuDNN


def _cudnn(
    q: Array, k: Array, v: Array, scale: float, causal: bool, key_valid: Array | None
) -> Array:
    """cuDNN's flash attention wants one width, a multiple of 8, for queries, keys and values."""
    width = math.ceil(max(q.shape[-1], v.shape[-1]) / 8) * 8
    pad = lambda x: jnp.pad(x, ((0, 0),) * 3 + ((0, width - x.shape[-1]),))  # noqa: E731
    mask = None if key_valid is None else key_valid[:, None, None, :]
    out = jax.nn.dot_product_attention(
        pad(q), pad(k), pad(v), mask=mask, scale=scale, is_causal=causal, implementation="cudnn"
    )
    return out[..., : v.shape[-1]]


# ---------------------------------------------------------------------------- XLA


class _Keys(NamedTuple):
    """What masks beside causality; rows of the batch come first in every array."""

    valid: Array | None  # bool[b, s]
    segments: Segments | None  # of the keys


class _Queries(NamedTuple):
    """Some queries: their places in the sequence where it is causal, and their segments."""

    index: Array | None  # int[t]
    segments: Segments | None


def _xla(q: Array, k: Array, v: Array, causal: bool, keys: _Keys) -> Array:
    index = jnp.arange(q.shape[1]) if causal else None
    queries = _Queries(index, keys.segments)
    if platform() != "cpu" or current_mesh() is not None or q.shape[1] == 1:
        return _dense(q, k, v, queries, keys)
    row_scores = q.shape[1] * k.shape[1] * q.shape[2]
    if q.shape[0] * row_scores <= _CPU_ROW_SCORES:
        return _dense(q, k, v, queries, keys)
    if row_scores <= _CPU_ROW_SCORES:
        return _rows(q, k, v, index, keys)
    return _mapped(q, k, v, causal, keys)


def _dense(q: Array, k: Array, v: Array, queries: _Queries, keys: _Keys) -> Array:
    """All scores at once; q is already scaled."""
    scores = jnp.einsum("btnk,bsnk->bnts", q, k, preferred_element_type=jnp.float32)
    visible = _visible(queries, keys, k.shape[1])
    if visible is not None:
        scores = jnp.where(visible, scores, _NEGATIVE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bnts,bsnk->btnk", weights, v)


def _visible(queries: _Queries, keys: _Keys, num_keys: int) -> Array | None:
    """Bool, broadcastable to [b, n, t, s], or None when everything is visible."""
    masks = []
    if queries.index is not None:
        masks.append((jnp.arange(num_keys)[None, :] <= queries.index[:, None])[None, None])
    if keys.valid is not None:
        masks.append(keys.valid[:, None, None, :])
    if queries.segments is not None and keys.segments is not None:
        own = keys.segments.own[:, None, None, :]
        mine, prefix = (each[:, None, :, None] for each in queries.segments)
        masks.append((own == mine) | (own == prefix))
    return functools.reduce(jnp.logical_and, masks) if masks else None


def _rows(q: Array, k: Array, v: Array, index: Array | None, keys: _Keys) -> Array:
    """Attention one row of the batch after another, all its heads at once."""

    @jax.checkpoint
    def row(item: tuple) -> Array:
        q, k, v, keys = jax.tree.map(lambda x: x[None], item)
        return _dense(q, k, v, _Queries(index, keys.segments), keys)[0]

    return jax.lax.map(row, (q, k, v, keys))


def _mapped(q: Array, k: Array, v: Array, causal: bool, keys: _Keys) -> Array:
    """Attention one (batch, head) after another, in blocks of queries: the CPU's cache decides."""
    b, t, n, width = q.shape
    s = k.shape[1]
    block = min(t, max(16, _CPU_BLOCK_SCORES // s))
    padded = math.ceil(t / block) * block
    heads = lambda x: x.transpose(0, 2, 1, 3).reshape(b * n, x.shape[1], x.shape[3])  # noqa: E731
    queries = jnp.pad(heads(q), ((0, 0), (0, padded - t), (0, 0)))
    queries = queries.reshape(b * n, padded // block, block, width)
    keys = jax.tree.map(lambda x: jnp.repeat(x, n, axis=0), keys)

    def blocks(x: Array) -> Array:
        return jnp.pad(x, (0, padded - t)).reshape(padded // block, block)

    def head(item: tuple) -> Array:
        queries, k, v, keys = item
        keys = jax.tree.map(lambda x: x[None], keys)

        @jax.checkpoint
        def one_block(item: tuple) -> Array:
            queries, start, segments = item
            scores = jnp.dot(queries, k.T, preferred_element_type=jnp.float32)
            index = start + jnp.arange(block) if causal else None
            segments = jax.tree.map(lambda x: x[None], segments)
            visible = _visible(_Queries(index, segments), keys, s)
            if visible is not None:
                scores = jnp.where(visible[0, 0], scores, _NEGATIVE)
            top = jax.lax.stop_gradient(scores.max(-1, keepdims=True))
            weights = jnp.exp(scores - top)
            total = weights.sum(-1, keepdims=True)
            return (jnp.dot(weights.astype(v.dtype), v) / total).astype(v.dtype)

        segments = jax.tree.map(lambda x: blocks(x[0]), keys.segments)
        return jax.lax.map(one_block, (queries, jnp.arange(0, padded, block), segments))

    out = jax.lax.map(head, (queries, heads(k), heads(v), keys))
    out = out.reshape(b, n, padded, v.shape[-1])[:, :, :t]
    return out.transpose(0, 2, 1, 3)


# ---------------------------------------------------------------------------- TPU splash


def _splash(q: Array, k: Array, v: Array, causal: bool, key_valid: Array | None) -> Array:
    """Splash attention on each device's rows and heads; widths are padded to whole lanes."""
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
        heads = q.shape[1]
        mask = masks.CausalMask((t, s)) if causal else masks.FullMask((t, s))
        kernel = splash.make_splash_mha(
            mask=masks.MultiHeadMask([mask] * heads),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=splash.BlockSizes(**_block_sizes(t, s)),
            interpret=platform() != "tpu",
        )
        # A padded query still looks at the valid keys, so every query belongs to segment 1.
        segments = jax.vmap(
            lambda valid: splash.SegmentIds(jnp.ones(t, jnp.int32), valid.astype(jnp.int32))
        )(valid)
        out: Any = jax.vmap(kernel)(q, k, v, segments)
        return out

    run = local
    mesh = current_mesh()
    if mesh is not None:
        spec = partition_spec(("batch", "heads", None, None), (b, n, t, lanes))
        rows = partition_spec(("batch", None), (b, s))
        run = jax.shard_map(
            local, mesh=mesh, in_specs=(spec, spec, spec, rows), out_specs=spec, check_vma=False
        )
    out = run(heads_first(q), heads_first(k), heads_first(v), key_valid)
    return out[..., :value_width].transpose(0, 2, 1, 3)


def _block_sizes(t: int, s: int) -> dict[str, Any]:
    """Splash's blocks of queries and keys, forward and backward: at most 512, dividing t and s."""
    queries, keys = _block_size(t, limit=512), _block_size(s, limit=512)
    return {
        **dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), queries),
        **dict.fromkeys(("block_kv", "block_kv_dkv", "block_kv_dq"), keys),
        **dict.fromkeys(("block_kv_compute", "block_kv_dkv_compute"), keys),
    }


def _block_size(length: int, limit: int) -> int:
    """The largest multiple of 128 that divides the length and is at most the limit."""
    return max(size for size in range(128, limit + 1, 128) if length % size == 0)
