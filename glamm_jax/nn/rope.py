"""Rotary position embeddings (RoPE), in the half-split layout of Hugging Face's LLaMA."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def inverse_frequencies(head_dim: int, theta: float) -> Float[Array, "half"]:
    """Return theta^(-2i / head_dim), the buffer `rotary_emb.inv_freq` of the checkpoints."""
    return 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


def rotary_tables(
    positions: Int[Array, "b t"], head_dim: int, theta: float, dtype: DTypeLike
) -> tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]]:
    """Return the cosines and sines of the rotation angles.

    Args:
        positions: position of each token.
        head_dim: width of a head, even.
        theta: base of the frequencies.
        dtype: of the result.
    """
    # quirk 27: the original computes the angles in float32 and then casts the tables to bfloat16.
    frequencies = inverse_frequencies(head_dim, theta)
    angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
    return jnp.cos(angles)[:, :, None].astype(dtype), jnp.sin(angles)[:, :, None].astype(dtype)


def apply_rotary(
    x: Float[Array, "b t n k"], cos: Float[Array, "b t 1 half"], sin: Float[Array, "b t 1 half"]
) -> Float[Array, "b t n k"]:
    """Rotate the pairs (x[i], x[i + k/2]) by their angles.

    Args:
        x: queries or keys.
        cos: cosines from `rotary_tables`.
        sin: sines from `rotary_tables`.
    """
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
