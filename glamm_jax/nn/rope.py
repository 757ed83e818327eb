"""Rotary positions, in the half-split arrangement of Hugging Face's LLaMA."""

from __future__ import annotations

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def inverse_frequencies(head_dim: int, theta: float) -> Float[Array, "half"]:
    """theta^(-2i / head_dim): the buffer `rotary_emb.inv_freq` of the checkpoints."""
    return 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


def rotary_tables(
    positions: Int[Array, "b t"], head_dim: int, theta: float, dtype: DTypeLike
) -> tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]]:
    """Cosines and sines: made in float32, then cast, as the original does in bf16 (trap 27)."""
    frequencies = inverse_frequencies(head_dim, theta)
    angles = positions[..., None].astype(jnp.float32) * frequencies[None, None]
    return jnp.cos(angles)[:, :, None].astype(dtype), jnp.sin(angles)[:, :, None].astype(dtype)


def rotate(
    x: Float[Array, "b t n k"], cos: Float[Array, "b t 1 half"], sin: Float[Array, "b t 1 half"]
) -> Float[Array, "b t n k"]:
    """Turn the pair (x[i], x[i + k/2]) by its angle."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
