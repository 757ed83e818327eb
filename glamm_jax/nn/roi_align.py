"""RoIAlign as two matrix products per box: pooled = A_y @ map @ A_x.T.

Samples lie on a regular grid inside an axis-aligned box. Bilinear weights are separable, and so is
the rule that a sample outside the map is zero; the average over the samples of a bin is linear.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def roi_matrix(
    low: Float[Array, ""], high: Float[Array, ""], bins: int, samples: int, size: int
) -> Float[Array, "bins size"]:
    """Return the weights of a map's rows (or columns) in each bin along one side of a box.

    Args:
        low: the lower edge of the box, in cells, already shifted by -0.5.
        high: its upper edge, likewise.
        bins: number of bins along the side.
        samples: number of sample points per bin.
        size: cells of the map. A sample outside [-1, size] is zero; one beyond the outermost cell
            centre is clamped to it.
    """
    width = (high - low) / bins
    step = (jnp.arange(samples, dtype=jnp.float32)[None, :] + 0.5) * width / samples
    position = low + jnp.arange(bins, dtype=jnp.float32)[:, None] * width + step
    inside = (position >= -1) & (position <= size)
    position = jnp.clip(position, 0, size - 1)
    cell = jnp.arange(size, dtype=jnp.float32)
    weight = jnp.maximum(1 - jnp.abs(position[..., None] - cell[None, None]), 0)
    return (weight * inside[..., None]).mean(1)


def roi_align(
    maps: Float[Array, "q h w c"],
    boxes: Float[Array, "r 4"],
    box_image: Int[Array, "r"],
    *,
    stride: float,
    bins: int,
    samples: int,
) -> Float[Array, "r bins bins c"]:
    """Average-pool each box to `bins` x `bins` cells.

    The map of each box is selected inside the matrix product (by a one-hot factor), so no map is
    copied per box.

    Args:
        maps: feature maps.
        boxes: x0 y0 x1 y1 in a frame in which one cell is `stride` wide; no minimum size.
        box_image: index of the map of each box; an index out of range pools zeros.
        stride: width of a cell of the maps in the frame of the boxes.
        bins: number of bins along each side.
        samples: number of sample points per bin along each side.

    Returns:
        The pooled maps in the dtype of `maps`, computed in float32.
    """
    q, h, w, _ = maps.shape
    edges = boxes.astype(jnp.float32) / stride - 0.5
    matrix = jax.vmap(roi_matrix, in_axes=(0, 0, None, None, None))
    rows = matrix(edges[:, 1], edges[:, 3], bins, samples, h)
    columns = matrix(edges[:, 0], edges[:, 2], bins, samples, w)
    selection = jax.nn.one_hot(box_image, q, dtype=jnp.float32)
    x = maps.astype(jnp.float32)
    pooled = jnp.einsum("rq,rph,qhwc->rpwc", selection, rows, x)
    return jnp.einsum("rsw,rpwc->rpsc", columns, pooled).astype(maps.dtype)
