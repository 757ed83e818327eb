"""RoIAlign as two small matrices a box: pooled = A_y @ map @ A_x.T.

Samples lie on a regular grid inside an axis-aligned box, bilinear weights are separable, and so is
the rule that a sample outside the map counts zero. Averaging the samples of a bin is linear too.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def roi_matrix(
    low: Float[Array, ""], high: Float[Array, ""], bins: int, samples: int, size: int
) -> Float[Array, "bins size"]:
    """Weights with which each bin along one side of a box reads a map's rows or columns.

    Args:
        low, high: the box's two edges in cells, already shifted by -0.5.
        samples: sample points per bin and side.
        size: cells of the map. A sample outside [-1, size] counts zero; one beyond the outermost
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
    """Average pooling of `bins` x `bins` cells of each box, in float32, in the dtype of the maps.

    Args:
        boxes: x0 y0 x1 y1 in the frame in which one cell is `stride` wide; no minimum size.
        box_image: which map each box lies on; another index pools zeros.

    The map is chosen inside the matrix product (a one-hot row block): no map is copied for a box.
    """
    q, h, w, _ = maps.shape
    edges = boxes.astype(jnp.float32) / stride - 0.5
    matrix = jax.vmap(roi_matrix, in_axes=(0, 0, None, None, None))
    rows = matrix(edges[:, 1], edges[:, 3], bins, samples, h)
    columns = matrix(edges[:, 0], edges[:, 2], bins, samples, w)
    chosen = jax.nn.one_hot(box_image, q, dtype=jnp.float32)
    x = maps.astype(jnp.float32)
    pooled = jnp.einsum("rq,rph,qhwc->rpwc", chosen, rows, x)
    return jnp.einsum("rsw,rpwc->rpsc", columns, pooled).astype(maps.dtype)
