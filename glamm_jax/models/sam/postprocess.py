"""SAM's post-processing: low-resolution mask logits upsampled to the original image sizes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from glamm_jax.nn.resize import Size, bilinear_matrix


def mask_matrix(
    out_rows: int, mask_size: int, canvas_size: int, resized: Size, original: Size
) -> Float[Array, "out_rows mask_size"]:
    """Return the matrix that post-processes one side of a mask.

    It is the product of both of SAM's bilinear resizes: mask to canvas, then the crop of the canvas
    that holds the image to the original size.

    Args:
        out_rows: static number of rows; rows from `original` on are zero.
        mask_size: side of the low-resolution mask.
        canvas_size: side of the padded input image of SAM.
        resized: length of this side of the image inside the canvas; may be traced.
        original: length of this side of the original image; may be traced.
    """
    crop = bilinear_matrix(out_rows, canvas_size, original, resized)
    return crop @ bilinear_matrix(canvas_size, mask_size, canvas_size, mask_size)


def postprocess_masks(
    mask_logits: Float[Array, "m s s"],
    resized_sizes: Int[Array, "m 2"],
    original_sizes: Int[Array, "m 2"],
    canvas_size: int,
    output_shape: tuple[int, int],
) -> Float[Array, "m h w"]:
    """Upsample low-resolution mask logits to the original image sizes.

    Args:
        mask_logits: one mask per row.
        resized_sizes: height and width of each mask's image inside the canvas.
        original_sizes: height and width of each mask's original image.
        canvas_size: side of the padded input image of SAM.
        output_shape: static height and width of the result, at least those of the originals.

    Returns:
        Each mask at its original size, at the top left of an array of `output_shape`; zero outside.

    Source: model/SAM/modeling/sam.py postprocess_masks, as matrix products.
    """
    size = mask_logits.shape[-1]

    def side(rows: int, axis: int) -> Float[Array, "m rows s"]:
        return jax.vmap(lambda r, o: mask_matrix(rows, size, canvas_size, r, o))(
            resized_sizes[:, axis], original_sizes[:, axis]
        )

    rows, columns = side(output_shape[0], 0), side(output_shape[1], 1)
    y = jnp.einsum("mhs,mst->mht", rows, mask_logits.astype(jnp.float32))
    return jnp.einsum("mwt,mht->mhw", columns, y)
