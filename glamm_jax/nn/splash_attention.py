"""Flash attention on TPU: the splash kernel of jax, for any length, and for packed rows.

Splash masks with one integer per query and one per key, which must be equal. In a packed row a
token attends to its own segment and to its prefix: the kernel runs once for each, and both results
are merged by their log-sum-exp. The backward kernels take the log-sum-exp of all scores of a query
and its merged output, so that each adds its part of the exact gradients.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from glamm_jax.nn.attention_mask import MaskArrays, Segments
from glamm_jax.parallel import current_mesh, partition_spec, platform

LANES = 128
# A block of queries, or of keys, takes at most so many bytes, so that the blocks and the scores of
# the forward and the backward kernels fit the vector memory of v5e, v5p and v6e.
_BLOCK_BYTES = 256 * 1024
# Keys of a block whose scores are computed at once.
_COMPUTED_KEYS = 768
# Integers that no segment has: of invalid keys, of tokens without a prefix, of padded queries.
_INVALID_KEY, _NO_PREFIX, _PADDING = -2, -3, -4


def splash_attention(
    q: Float[Array, "b t n k"],
    k: Float[Array, "b s m k"],
    v: Float[Array, "b s m k2"],
    causal: bool,
    masks: MaskArrays,
) -> Float[Array, "b t n k2"]:
    """Run splash attention on the rows and heads of each device, widths padded to 128 lanes.

    Args:
        q: queries, already scaled.
        k: keys; a head serves as many adjacent query heads as there are for each.
        v: values.
        causal: query i attends to keys 0..i.
        masks: valid keys and segments.
    """
    (b, t, n, width), s, value_width = q.shape, k.shape[1], v.shape[-1]
    lanes = math.ceil(max(width, value_width) / LANES) * LANES
    blocks = block_sizes(t, s, lanes * q.dtype.itemsize)
    padded_t = math.ceil(t / blocks["block_q"]) * blocks["block_q"]
    padded_s = math.ceil(s / blocks["block_kv"]) * blocks["block_kv"]
    valid = jnp.ones((b, s), bool) if masks.valid is None else masks.valid
    queries, keys = _segment_numbers(valid, masks.segments, t)
    numbers = (_pad_tokens(queries, padded_t, _PADDING), _pad_tokens(keys, padded_s, _INVALID_KEY))

    def heads_first(x: Array, length: int) -> Array:
        padding = ((0, 0), (0, length - x.shape[1]), (0, 0), (0, lanes - x.shape[-1]))
        return jnp.pad(x, padding).transpose(0, 2, 1, 3)

    q, k, v = heads_first(q, padded_t), heads_first(k, padded_s), heads_first(v, padded_s)
    run = partial(_attend_locally, _Kernels(causal, tuple(blocks.items())))
    mesh = current_mesh()
    if mesh is not None:
        axes = ("batch", "heads", None, None)
        spec = partition_spec(axes, q.shape)
        if partition_spec(axes, k.shape) != spec:
            # Devices share key heads; with one for each query head, no group is divided.
            k, v = (jnp.repeat(x, n // x.shape[1], axis=1) for x in (k, v))
        rows = [partition_spec(("batch", *(None,) * (x.ndim - 1)), x.shape) for x in numbers]
        run = jax.shard_map(
            run, mesh=mesh, in_specs=(spec, spec, spec, *rows), out_specs=spec, check_vma=False
        )
    out = run(q, k, v, *numbers)
    return out[:, :, :t, :value_width].transpose(0, 2, 1, 3)


def _pad_tokens(x: Array, length: int, value: int) -> Array:
    padding = ((0, 0), (0, length - x.shape[1])) + ((0, 0),) * (x.ndim - 2)
    return jnp.pad(x, padding, constant_values=value)


def _segment_numbers(
    valid: Array, segments: Segments | None, num_queries: int
) -> tuple[Array, Array]:
    """Return the numbers of queries, [b, t, 1], or 2 in packed rows, and of keys, [b, s].

    A padded query of an unpacked row still attends to the valid keys: it has their number.
    """
    if segments is None:
        queries = jnp.ones((valid.shape[0], num_queries, 1), jnp.int32)
        return queries, jnp.where(valid, 1, _INVALID_KEY)
    prefixes = jnp.where(segments.prefix_ids < 0, _NO_PREFIX, segments.prefix_ids)
    queries = jnp.stack([segments.ids, prefixes], axis=-1).astype(jnp.int32)
    return queries, jnp.where(valid, segments.ids, _INVALID_KEY).astype(jnp.int32)


def _attend_locally(
    kernels: _Kernels, q: Array, k: Array, v: Array, queries: Array, keys: Array
) -> Array:
    """Run the kernel on the rows and heads of one device."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    pairs = [splash.SegmentIds(queries[..., i], keys) for i in range(queries.shape[-1])]
    if len(pairs) == 1:
        out: Any = jax.vmap(kernels.build(q, k))(q, k, v, pairs[0])
        return out
    return _merged(kernels, q, k, v, pairs)


class _Kernels(NamedTuple):
    """What a kernel depends on, besides the shapes of its operands.

    Attributes:
        causal: query i attends to keys 0..i.
        blocks: names and sizes of its blocks.
    """

    causal: bool
    blocks: tuple[tuple[str, int], ...]

    def build(self, q: Array, k: Array, save_residuals: bool = False) -> Any:
        """Return the kernel of one row; with the residuals it also returns the log-sum-exp.

        Args:
            q: queries of all rows; their heads come before their tokens.
            k: keys.
            save_residuals: return them, too.
        """
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel
        from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

        shape, blocks = (q.shape[2], k.shape[2]), cast(dict[str, Any], dict(self.blocks))
        mask = masks.CausalMask(shape) if self.causal else masks.FullMask(shape)
        return splash_attention_kernel.make_splash_mha(
            mask=masks.MultiHeadMask([mask] * q.shape[1]),  # the kernel groups them by key heads
            head_shards=1,
            q_seq_shards=1,
            block_sizes=splash_attention_kernel.BlockSizes(**blocks),
            save_residuals=save_residuals,
            interpret=platform() != "tpu",
        )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _merged(kernels: _Kernels, q: Array, k: Array, v: Array, pairs: list) -> Array:
    """Attend to the keys of either of two numbers; no key has both."""
    return _merged_forward(kernels, q, k, v, pairs)[0]


def _merged_forward(
    kernels: _Kernels, q: Array, k: Array, v: Array, pairs: list
) -> tuple[Array, tuple]:
    kernel = kernels.build(q, k, save_residuals=True)
    (first, (first_sum,)), (second, (second_sum,)) = (
        jax.vmap(kernel)(q, k, v, ids) for ids in pairs
    )
    total = jnp.logaddexp(first_sum, second_sum)
    out = first.astype(jnp.float32) * jnp.exp(first_sum - total)[..., None]
    out += second.astype(jnp.float32) * jnp.exp(second_sum - total)[..., None]
    out = out.astype(v.dtype)
    return out, (q, k, v, pairs, out, total)


def _merged_backward(kernels: _Kernels, saved: tuple, d_out: Array) -> tuple:
    q, k, v, pairs, out, total = saved
    gradients = partial(_part_gradients, kernels.build(q, k))
    first, second = (jax.vmap(gradients)(q, k, v, ids, out, total, d_out) for ids in pairs)
    return *(x + y for x, y in zip(first, second, strict=True)), None


_merged.defvjp(_merged_forward, _merged_backward)


def _part_gradients(
    kernel: Any, q: Array, k: Array, v: Array, ids: Any, out: Array, total: Array, d_out: Array
) -> tuple[Array, Array, Array]:
    """Return the gradients through the keys of one number, from the merged output and log-sum-exp.

    The public function of the kernel saves its own output and sum for its backward pass. With those
    of the merged attention the same kernels compute exactly this part of the gradients, so they are
    called directly.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash

    saved = (q, k, v, ids, None, out, total, kernel.dq_mask_info, kernel.dkv_mask_info)
    order = (
        *("save_residuals", "mask_value", "is_mqa", "block_sizes", "residual_checkpoint_name"),
        *("mask_function", "attn_logits_soft_cap", "interpret"),
    )
    backward: Any = splash._splash_attention_bwd
    return backward(*(kernel.kwargs[x] for x in order), saved, d_out)[3:6]


def block_sizes(num_queries: int, num_keys: int, row_bytes: int) -> dict[str, int]:
    """Return splash's blocks of queries and keys, forward and backward.

    A large block reads the other operand less often; its size is limited by the vector memory. The
    sequence is divided into as few blocks as the limit permits, and padded to them.

    Args:
        num_queries: length of the queries.
        num_keys: length of the keys.
        row_bytes: bytes of one query, or key, of one head, in whole lanes.
    """
    limit = max(_BLOCK_BYTES // row_bytes // LANES * LANES, LANES)
    queries, keys = _block_size(num_queries, limit), _block_size(num_keys, limit)
    computed = max(
        size for size in range(LANES, min(keys, _COMPUTED_KEYS) + 1, LANES) if keys % size == 0
    )
    return {
        **dict.fromkeys(("block_q", "block_q_dkv", "block_q_dq"), queries),
        **dict.fromkeys(("block_kv", "block_kv_dkv", "block_kv_dq"), keys),
        **dict.fromkeys(("block_kv_compute", "block_kv_dkv_compute"), computed),
    }


def _block_size(length: int, limit: int) -> int:
    """Return the smallest multiple of 128 that divides a length into as few blocks as the limit."""
    count = math.ceil(length / limit)
    return math.ceil(length / count / LANES) * LANES
