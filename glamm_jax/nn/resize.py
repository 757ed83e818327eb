"""Bilinear resizing as two small matrices: out = A_h @ map @ A_w.T.

Resizing is linear and separable. Written so, sizes may be traced values: post-processing masks to
original sizes keeps static shapes, and a chain of resizes and crops is a product of matrices.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Size = int | Int[Array, ""]


def bilinear_matrix(
    out_rows: int, in_rows: int, out_size: Size, in_size: Size, *, align_corners: bool = False
) -> Float[Array, "out_rows in_rows"]:
    """Row i holds the weights with which output pixel i reads the input pixels.

    Args:
        out_rows, in_rows: static shape; rows beyond `out_size` are zero.
        out_size, in_size: the sizes meant, at most the static ones; may be traced.
        align_corners: whether the corner pixels' centres coincide (region pyramid) or the images'
            edges do (SAM).

    Coordinates are float32 in the order torch computes them: scale = in / out, then
    scale * (i + 0.5) - 0.5, so that equal inputs give equal weights.
    """
    size_in = jnp.asarray(in_size, jnp.float32)
    size_out = jnp.asarray(out_size, jnp.float32)
    index = jnp.arange(out_rows, dtype=jnp.float32)
    if align_corners:
        position = index * ((size_in - 1) / jnp.maximum(size_out - 1, 1))
    else:
        position = jnp.maximum((index + 0.5) * (size_in / size_out) - 0.5, 0.0)
    low = jnp.minimum(jnp.floor(position), size_in - 1)
    high = jnp.minimum(low + 1, size_in - 1)
    fraction = (position - low)[:, None]
    column = jnp.arange(in_rows, dtype=jnp.float32)[None, :]
    matrix = (column == low[:, None]) * (1 - fraction) + (column == high[:, None]) * fraction
    return jnp.where((index < size_out)[:, None], matrix, 0)


def resize_map(
    x: Float[Array, "b h w c"], height: int, width: int, *, align_corners: bool = False
) -> Float[Array, "b h2 w2 c"]:
    """Bilinear resizing of channels-last maps, computed in float32, in the dtype of x."""
    _, h, w, _ = x.shape
    if (h, w) == (height, width):
        return x
    rows = bilinear_matrix(height, h, height, h, align_corners=align_corners)
    columns = bilinear_matrix(width, w, width, w, align_corners=align_corners)
    y = jnp.einsum("yh,bhwc->bywc", rows, x.astype(jnp.float32))
    return jnp.einsum("xw,bywc->byxc", columns, y).astype(x.dtype)
