"""Rotary position embeddings (RoPE), in the half-split layout of Hugging Face's LLaMA."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from glamm_jax.config import RopeScaling


def inverse_frequencies(head_dim: int, theta: float) -> Float[Array, "half"]:
    """Return theta^(-2i / head_dim), the buffer `rotary_emb.inv_freq` of the checkpoints."""
    return 1.0 / theta ** (jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)


def scale_frequencies(
    frequencies: Float[Array, "half"], scaling: RopeScaling
) -> Float[Array, "half"]:
    """Return the frequencies of a model for longer sequences.

    Source: _compute_llama3_parameters of transformers.
    """
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    length = scaling.original_max_positions
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    wave_lengths = 2 * math.pi / frequencies
    kept = jnp.clip((length / wave_lengths - low) / (high - low), 0.0, 1.0)
    return (1 - kept) * frequencies / scaling.factor + kept * frequencies


def rotary_tables(
    positions: Int[Array, "b t"],
    head_dim: int,
    theta: float,
    dtype: DTypeLike,
    scaling: RopeScaling | None = None,
) -> tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]]:
    """Return the cosines and sines of the rotation angles.

    Args:
        positions: position of each token.
        head_dim: width of a head, even.
        theta: base of the frequencies.
        dtype: of the result.
        scaling: of the frequencies.
    """
    # quirk 27: the original computes the angles in float32 and then casts the tables to bfloat16.
    frequencies = inverse_frequencies(head_dim, theta)
    if scaling is not None:
        frequencies = scale_frequencies(frequencies, scaling)
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
