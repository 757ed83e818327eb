"""The key-value cache of the decoder, as explicit arrays."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from glamm_jax.config import LlamaConfig


class KVCache(NamedTuple):
    """Keys and values of every layer. All rows use the same slots.

    The head axis comes before the slot axis, so that the keys of one head are contiguous when a
    token attends to them.

    Attributes:
        keys: rotated keys.
        values: values.
        valid: whether a slot holds a token of its row; other slots are never attended to.
    """

    keys: Float[Array, "l b n s k"]
    values: Float[Array, "l b n s k"]
    valid: Bool[Array, "b s"]

    @classmethod
    def empty(cls, config: LlamaConfig, rows: int, slots: int, dtype: DTypeLike) -> KVCache:
        """Return a cache without tokens, with `slots` slots for each of `rows` rows."""
        shape = (config.num_layers, rows, config.kv_heads, slots, config.head_dim)
        zeros = jnp.zeros(shape, dtype)
        return cls(zeros, zeros, jnp.zeros((rows, slots), bool))


def write_slice(x: Array, update: Array, start: tuple) -> Array:
    """Apply `jax.lax.dynamic_update_slice`; 16-bit arrays are written as raw bits.

    XLA's CPU backend would convert all of a half-precision `x` to float32 and back to write one
    slice.

    Args:
        x: the array to write to.
        update: the values to write, of the rank of `x`.
        start: index of the first element to write along each axis; may be traced.
    """
    if x.dtype.itemsize != 2:
        return jax.lax.dynamic_update_slice(x, update, start)
    x_bits, update_bits = (jax.lax.bitcast_convert_type(a, jnp.uint16) for a in (x, update))
    written = jax.lax.dynamic_update_slice(x_bits, update_bits, start)
    return jax.lax.bitcast_convert_type(written, x.dtype)
