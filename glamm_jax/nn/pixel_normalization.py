"""Normalization of pixels, on the device; the host sends uint8."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from glamm_jax.config import RGB


def normalize_pixels(
    pixels: Shaped[Array, "b h w 3"],
    mean: RGB,
    std: RGB,
    sizes: Int[Array, "b 2"] | None = None,
) -> Float[Array, "b h w 3"]:
    """Compute (pixels - mean) / std in float32.

    Args:
        pixels: integers in 0..255. Floats count as normalized and are returned unchanged.
        mean: of each channel, in units of 0..255.
        std: of each channel, in units of 0..255.
        sizes: height and width of each image inside its canvas; None: it fills the canvas. Padding
            is set to zero *after* the normalization, as in SAM.
    """
    if jnp.issubdtype(pixels.dtype, jnp.floating):
        return pixels
    shape = (1, 1, 1, 3)
    x = pixels.astype(jnp.float32) - jnp.asarray(mean, jnp.float32).reshape(shape)
    x = x / jnp.asarray(std, jnp.float32).reshape(shape)
    if sizes is None:
        return x
    inside = (jnp.arange(x.shape[1])[None, :] < sizes[:, :1])[:, :, None]
    inside = inside & (jnp.arange(x.shape[2])[None, :] < sizes[:, 1:])[:, None, :]
    return jnp.where(inside[..., None], x, 0)
