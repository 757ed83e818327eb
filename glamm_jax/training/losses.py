"""Cross-entropy over text, binary cross-entropy and dice over masks at the original resolution.

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
from glamm_jax.types import Batch, Losses, Output

DICE_SCALE = 1000.0  # both sums are divided by it, so that eps matters for tiny masks (trap 20)
DICE_EPS = 1e-6
COUNT_EPS = 1e-8


class LossCounts(NamedTuple):
    """What the losses of a step are divided by."""

    targets: Num[Array, ""]
    masks: Num[Array, ""]


def loss_counts(batch: Batch) -> LossCounts:
    """Targets and masks of a batch, or of a stack of batches together."""
    return LossCounts(batch.target_valid.sum(), batch.mask_has_truth.sum())


def losses(
    model: GLaMM,
    batch: Batch,
    output: Output,
    weights: LossWeights,
    counts: LossCounts | None = None,
) -> Losses:
    """The weighted losses of a batch, float32 scalars.

    Args:
        counts: of all batches of the step, of which this is one: then its share of their losses.
    """
    counts = counts or loss_counts(batch)
    at_targets = jnp.take_along_axis(output.hidden, batch.target_positions[..., None], axis=1)
    logits = model.llama.logits(at_targets)
    ce = weights.ce * cross_entropy(logits, batch.target_ids, batch.target_valid, counts.targets)
    if batch.masks.shape[0] == 0:
        return Losses(ce, ce, jnp.zeros(()), jnp.zeros(()))
    logits, inside = masks_at_original_size(output, batch, model.config.sam.image_size)
    bce, dice = mask_losses(logits, batch.masks, inside, batch.mask_has_truth, counts.masks)
    bce, dice = weights.bce * bce, weights.dice * dice
    return Losses(ce + bce + dice, ce, bce, dice)


def cross_entropy(
    logits: Float[Array, "b s v"],
    target_ids: Int[Array, "b s"],
    valid: Bool[Array, "b s"],
    num_targets: Num[Array, ""] | None = None,
) -> Float[Array, ""]:
    """Mean over the valid targets of the whole batch (trap 19); 0 when there are none.

    Args:
        num_targets: what the sum is divided by, when these are not all.
    """
    chosen = jnp.take_along_axis(logits, target_ids[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - chosen
    number = valid.sum() if num_targets is None else num_targets
    return jnp.where(valid, nll, 0).sum() / jnp.maximum(number, 1)


def masks_at_original_size(
    output: Output, batch: Batch, canvas_size: int
) -> tuple[Float[Array, "m h w"], Bool[Array, "m h w"]]:
    """Mask logits in the bucket of `batch.masks`, and which pixels lie inside the image."""
    sizes = batch.original_sizes[batch.mask_image]
    height, width = batch.masks.shape[1:]
    logits = postprocess_masks(
        output.mask_logits,
        batch.resized_sizes[batch.mask_image],
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
    """(binary cross-entropy, dice), each summed over masks and divided by their number (trap 19).

    A truth of 2, where polygons of one object overlap, enters as it is (trap 22).

    Args:
        num_masks: what the sums are divided by, when these are not all.
    """
    x, truth = logits.astype(jnp.float32), masks.astype(jnp.float32)
    pixel = jax.nn.softplus(x) - x * truth
    pixels = inside.sum((1, 2)).astype(jnp.float32)
    bce = jnp.where(inside, pixel, 0).sum((1, 2)) / jnp.maximum(pixels, 1)
    share = jnp.where(inside, jax.nn.sigmoid(x), 0) / DICE_SCALE
    intersection = 2 * (share * truth).sum((1, 2))
    union = share.sum((1, 2)) + (truth / DICE_SCALE).sum((1, 2))
    dice = 1 - (intersection + DICE_EPS) / (union + DICE_EPS)
    number = (valid.sum() if num_masks is None else num_masks) + COUNT_EPS
    total = lambda x: jnp.where(valid, x, 0).sum() / number  # noqa: E731
    return total(bce), total(dice)
