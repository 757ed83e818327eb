"""The key-value cache of the decoder, as explicit arrays."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.config import LlamaConfig
from glamm_jax.parallel import platform


class KVCache(NamedTuple):
    """Keys and values of every layer. A row fills its slots independently of the others.

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


def write_rows(
    x: Float[Array, "*c b n s k"], update: Float[Array, "*c b n 1 k"], slots: Int[Array, "b"]
) -> Float[Array, "*c b n s k"]:
    """Write one slot of every row; a row whose slot does not exist is left as it is.

    16-bit arrays are written as raw bits, see `as_bits`.

    Args:
        x: the array to write to.
        update: the new entry of every row.
        slots: index of the slot of each row.
    """
    # An index array on each side of a slice moves the rows to the front.
    entries = jnp.moveaxis(as_bits(update)[..., 0, :], -3, 0)
    index = (..., jnp.arange(len(slots)), slice(None), slots, slice(None))
    written = as_bits(x).at[index].set(entries, mode="drop")
    return jax.lax.bitcast_convert_type(written, x.dtype)


def write_slice(x: Array, update: Array, start: tuple) -> Array:
    """Apply `jax.lax.dynamic_update_slice`; 16-bit arrays are written as raw bits, see `as_bits`.

    Args:
        x: the array to write to.
        update: the values to write, of the rank of `x`.
        start: index of the first element to write along each axis; may be traced.
    """
    written = jax.lax.dynamic_update_slice(as_bits(x), as_bits(update), start)
    return jax.lax.bitcast_convert_type(written, x.dtype)


def as_bits(x: Array) -> Array:
    """Return a 16-bit array as raw bits on the CPU, any other unchanged.

    XLA's CPU backend would convert all of a half-precision array to float32 and back to write one
    slice.
    """
    if x.dtype.itemsize != 2 or platform() != "cpu":
        return x
    return jax.lax.bitcast_convert_type(x, jnp.uint16)
