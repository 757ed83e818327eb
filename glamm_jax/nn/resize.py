"""Bilinear resizing as two matrix products: out = A_h @ map @ A_w.T.

Resizing is linear and separable. In this form sizes may be traced values, so masks are resized to
their original sizes with static shapes, and a chain of resizes and crops is a product of matrices.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Size = int | Int[Array, ""]


def bilinear_matrix(
    out_rows: int, in_rows: int, out_size: Size, in_size: Size, *, align_corners: bool = False
) -> Float[Array, "out_rows in_rows"]:
    """Return the matrix whose row i holds the weights of the input pixels in output pixel i.

    Args:
        out_rows: static number of rows; rows from `out_size` on are zero.
        in_rows: static number of columns.
        out_size: number of output pixels, at most `out_rows`; may be traced.
        in_size: number of input pixels, at most `in_rows`; may be traced.
        align_corners: align the centres of the corner pixels (region pyramid) instead of the edges
            of the images (SAM).

    Coordinates are float32 and computed in torch's order, scale = in / out, then
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
    """Resize channels-last feature maps bilinearly.

    Args:
        x: feature maps.
        height: of the result.
        width: of the result.
        align_corners: see `bilinear_matrix`.

    Returns:
        The maps in the dtype of x, computed in float32.
    """
    _, h, w, _ = x.shape
    if (h, w) == (height, width):
        return x
    rows = bilinear_matrix(height, h, height, h, align_corners=align_corners)
    columns = bilinear_matrix(width, w, width, w, align_corners=align_corners)
    y = jnp.einsum("yh,bhwc->bywc", rows, x.astype(jnp.float32))
    return jnp.einsum("xw,bywc->byxc", columns, y).astype(x.dtype)
