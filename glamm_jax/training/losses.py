"""Cross-entropy over text, binary cross-entropy and dice over masks at the original resolution.

On request also SAM's loss of the IoU estimate, which no loss of the original trains.

Source: model/GLaMM.py of the original; paper, section A.2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

from glamm_jax.config import LossWeights
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.nn.batch_slices import take_in_slices
from glamm_jax.types import Batch, Losses, Output

LOSS_NAMES = ("loss", "ce", "bce", "dice")  # in a step's record; "loss" is the sum of the others
# quirk 20: the original divides both sums of the dice loss by 1000 before it adds eps, so that eps
# matters for tiny masks.
DICE_SCALE = 1000.0
DICE_EPS = 1e-6
COUNT_EPS = 1e-8


class LossCounts(NamedTuple):
    """Denominators of the losses of a step: numbers of supervised tokens and masks."""

    targets: Num[Array, ""]
    masks: Num[Array, ""]


def loss_counts(batch: Batch) -> LossCounts:
    """Count the targets and masks of a batch, or of a stack of batches together."""
    return LossCounts(batch.target_valid.sum(), batch.mask_has_truth.sum())


def losses(
    model: GLaMM,
    batch: Batch,
    output: Output,
    weights: LossWeights,
    counts: LossCounts | None = None,
) -> Losses:
    """Compute the weighted losses of a batch, float32 scalars.

    Args:
        model: for the logits of the supervised positions.
        batch: with the references.
        output: of the model for this batch.
        weights: of the losses.
        counts: of all batches of a step of several; the result is this batch's share of their
            losses. None: those of this batch.
    """
    counts = counts or loss_counts(batch)
    at_targets = jnp.take_along_axis(output.hidden, batch.target_positions[..., None], axis=1)
    logits = model.llama.logits(at_targets, pad_vocab=True)
    ce = weights.ce * cross_entropy(logits, batch.target_ids, batch.target_valid, counts.targets)
    zero = jnp.zeros(())
    if batch.masks.shape[0] == 0:
        return Losses(ce, ce, zero, zero, zero if weights.iou else None)
    logits, inside = masks_at_original_size(output, batch, model.config.sam.image_size)
    bce, dice = mask_losses(logits, batch.masks, inside, batch.mask_has_truth, counts.masks)
    bce, dice = weights.bce * bce, weights.dice * dice
    if not weights.iou:  # a static number: the program of the released training is unchanged
        return Losses(ce + bce + dice, ce, bce, dice)
    error = iou_loss(output.iou, logits, batch.masks, inside, batch.mask_has_truth, counts.masks)
    iou = weights.iou * error
    return Losses(ce + bce + dice + iou, ce, bce, dice, iou)


def cross_entropy(
    logits: Float[Array, "b s v"],
    target_ids: Int[Array, "b s"],
    valid: Bool[Array, "b s"],
    num_targets: Num[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Compute the mean cross-entropy over the valid targets of a batch; 0 when there are none.

    Args:
        logits: of the supervised positions.
        target_ids: token that follows each of them.
        valid: False for padding.
        num_targets: what the sum is divided by, when the batch is one of several; None: the number
            of valid targets.
    """
    # quirk 19: the mean is over all targets of the batch together, not row by row.
    chosen = jnp.take_along_axis(logits, target_ids[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - chosen
    count = valid.sum() if num_targets is None else num_targets
    return jnp.where(valid, nll, 0).sum() / jnp.maximum(count, 1)


def masks_at_original_size(
    output: Output, batch: Batch, canvas_size: int
) -> tuple[Float[Array, "m h w"], Bool[Array, "m h w"]]:
    """Resize the mask logits to the original image sizes.

    Args:
        output: of the model.
        batch: with the sizes of the images, and masks padded to one height and width.
        canvas_size: side of SAM's square input, in pixels.

    Returns:
        The logits, padded to the height and width of `batch.masks`, and which of their pixels lie
        inside the image.
    """
    resized_sizes, sizes = (
        take_in_slices(x, batch.mask_image, batch.num_slices)
        for x in (batch.resized_sizes, batch.original_sizes)
    )
    height, width = batch.masks.shape[1:]
    logits = postprocess_masks(
        output.mask_logits,
        resized_sizes,
        sizes,
        canvas_size,
        (height, width),
    )
    rows = jnp.arange(height)[None, :] < sizes[:, :1]
    columns = jnp.arange(width)[None, :] < sizes[:, 1:]
    return logits, rows[:, :, None] & columns[:, None, :]


def mask_losses(
    logits: Float[Array, "m h w"],
    masks: Num[Array, "m h w"],
    inside: Bool[Array, "m h w"],
    valid: Bool[Array, "m"],
    num_masks: Num[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Compute binary cross-entropy and dice loss, each the mean over the valid masks of a batch.

    Args:
        logits: at the original size of the images, padded.
        masks: reference. Where polygons of one object overlap it may be 2, which enters the losses
            as it is (quirk 22).
        inside: pixels of the image, without the padding.
        valid: masks that have a reference.
        num_masks: what the sums are divided by, when the batch is one of several; None: the number
            of valid masks.
    """
    x, reference = logits.astype(jnp.float32), masks.astype(jnp.float32)
    pixel_bce = jax.nn.softplus(x) - x * reference
    num_pixels = inside.sum((1, 2)).astype(jnp.float32)
    bce = jnp.where(inside, pixel_bce, 0).sum((1, 2)) / jnp.maximum(num_pixels, 1)
    scaled = jnp.where(inside, jax.nn.sigmoid(x), 0) / DICE_SCALE
    intersection = 2 * (scaled * reference).sum((1, 2))
    union = scaled.sum((1, 2)) + (reference / DICE_SCALE).sum((1, 2))
    dice = 1 - (intersection + DICE_EPS) / (union + DICE_EPS)
    # quirk 19: both are divided by the number of masks of the batch, not image by image.
    return _mean_of_masks(bce, valid, num_masks), _mean_of_masks(dice, valid, num_masks)


def _mean_of_masks(
    x: Float[Array, "m"], valid: Bool[Array, "m"], num_masks: Num[Array, ""] | None
) -> Float[Array, ""]:
    count = (valid.sum() if num_masks is None else num_masks) + COUNT_EPS
    return jnp.where(valid, x, 0).sum() / count


def iou_loss(
    estimates: Float[Array, "m"],
    logits: Float[Array, "m h w"],
    masks: Num[Array, "m h w"],
    inside: Bool[Array, "m h w"],
    valid: Bool[Array, "m"],
    num_masks: Num[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Compute the mean squared error of the IoU estimates: the loss that SAM trained them with.

    The reference is the IoU of the thresholded mask with its reference, which has no gradient.

    Args:
        estimates: of the mask decoder.
        logits: as in `mask_losses`, as the others.
        masks: reference; a pixel above 0 belongs to it.
        inside: pixels of the image, without the padding.
        valid: masks that have a reference.
        num_masks: as in `mask_losses`.
    """
    predicted, reference = (logits > 0) & inside, (masks > 0) & inside
    union = (predicted | reference).sum((1, 2))
    actual = (predicted & reference).sum((1, 2)) / jnp.maximum(union, 1)
    actual = jnp.where(union == 0, 1.0, actual)  # two empty masks agree
    error = jnp.square(estimates.astype(jnp.float32) - jax.lax.stop_gradient(actual))
    return _mean_of_masks(error, valid, num_masks)
