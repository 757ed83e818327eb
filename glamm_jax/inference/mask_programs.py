"""The programs that make masks of hidden states: SAM's two parts, and the resize to the image."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.inference.compiled import CompiledFunction, ModelWeights
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.types import Batch


class GroundingInputs(NamedTuple):
    """Images that masks are decoded from: fields of a `Batch`."""

    grounding_images: np.ndarray  # uint8[g, s, s, 3]
    resized_sizes: np.ndarray  # int[g, 2]
    original_sizes: np.ndarray  # int[g, 2]


class DecodedMasks(NamedTuple):
    """Masks in the order of their [SEG]s; the fields are those of `SegMasks`."""

    masks: Bool[Array, "m h w"]
    iou: Float[Array, "m"]
    foreground: Float[Array, "m"]
    logits: Float[Array, "m h w"] | None = None


# The numbers of images and of masks and the size of the masks vary between calls, so each of these
# programs depends on as few of them as possible.


@partial(CompiledFunction)
def encode_images(weights: ModelWeights, batch: Batch) -> Float[Array, "g s s c"]:
    """Compute SAM's embeddings of the images with a [SEG]."""
    return weights.merge().encode_grounding_images(batch)


@partial(CompiledFunction)
def decode_masks(
    weights: ModelWeights,
    batch: Batch,
    embeddings: Float[Array, "g s s c"],
    seg_hidden: Float[Array, "m d"],
) -> tuple[Float[Array, "m h w"], Float[Array, "m"]]:
    """Compute low-resolution mask logits and IoU estimates.

    Args:
        weights: the model.
        batch: gives the image of each mask.
        embeddings: of `encode_images`.
        seg_hidden: the hidden states that emitted the [SEG]s.
    """
    return weights.merge().decode_masks(seg_hidden, embeddings, batch)


@partial(CompiledFunction, static_argnames=("canvas_size", "size", "with_logits"))
def resize_masks(
    low_res: Float[Array, "m s s"],
    resized: Int[Array, "m 2"],
    original: Int[Array, "m 2"],
    *,
    canvas_size: int,
    size: tuple[int, int],
    with_logits: bool,
) -> tuple[Bool[Array, "m h w"], Float[Array, "m"], Float[Array, "m h w"] | None]:
    """Resize mask logits to their images.

    Args:
        low_res: the logits.
        resized: size of each mask's image inside the canvas.
        original: size of each mask's original image.
        canvas_size: side of the padded input image of SAM.
        size: of the results, at least that of every original.
        with_logits: return the logits, too.

    Returns:
        Masks, mean probabilities of the pixels of the masks, and the logits.
    """
    logits = postprocess_masks(low_res, resized, original, canvas_size, size)
    return logits > 0, foreground_probability(logits), logits if with_logits else None


def foreground_probability(logits: Float[Array, "m h w"]) -> Float[Array, "m"]:
    """Return the mean probability of the pixels of each mask, whose logits are positive.

    An empty mask has 0.
    """
    masks = logits > 0
    inside = jnp.where(masks, jax.nn.sigmoid(logits), 0).sum((1, 2))
    return inside / jnp.maximum(masks.sum((1, 2)), 1)
