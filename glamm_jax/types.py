"""The records that travel through the house, and the legend of shape letters.

Only the standard library is imported here, so that data workers can use it freely.

    B rows of tokens        T tokens of a row          S supervised tokens of a row
    I images for CLIP       P patches of an image      D width of the LLM
    G images for SAM        M masks                    H W height and width in pixels
    Q images with regions   R regions                  C channels
    L layers                N heads                    K width of a head
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

Array = Any  # numpy on the host, jax on the device


class Batch(NamedTuple):
    """One step's input. Every shape is static: each part has a capacity and a validity mask.

    Parts meet through integers made once, on the host (`glamm_jax.data.collate`), so a batch may mix
    all tasks and an encoder runs only on the images that need it. An index of -1 means "none".
    """

    token_ids: Array  # int32[B, T]; -1 embeds as zero (filler behind a text-only row, trap 7)
    token_valid: Array  # bool[B, T]; False is never attended to
    positions: Array  # int32[B, T]; rotary positions
    target_positions: Array  # int32[B, S]; where the prediction is read
    target_ids: Array  # int32[B, S]; the token to predict there
    target_valid: Array  # bool[B, S]

    images: Array  # uint8[I, H, W, 3], or float already normalised
    image_source: Array  # int32[B, T]; image * P + patch that replaces this token, or -1

    region_images: Array  # int32[Q]; slot of `images` whose pyramid is built, or -1
    boxes_xyxy_unit: Array  # float[R, 4]; x0 y0 x1 y1 over the original image, in [0, 1]
    box_image: Array  # int32[R]; slot of `region_images`
    region_source: Array  # int32[B, T]; region that replaces this token, or -1

    row_grounding_image: Array  # int32[B]; slot of `grounding_images` the row speaks of, or -1
    grounding_images: Array  # uint8[G, H, W, 3] padded at the bottom right, or float, normalised
    resized_sizes: Array  # int32[G, 2]; height and width of the image inside the padding
    original_sizes: Array  # int32[G, 2]; height and width of the original image
    mask_rows: Array  # int32[M]; row of the hidden state that emitted this [SEG]
    mask_positions: Array  # int32[M]; its position
    mask_image: Array  # int32[M]; slot of `grounding_images`
    mask_valid: Array  # bool[M]; there is a [SEG] here
    mask_has_truth: Array  # bool[M]; and `masks` holds its truth, which the losses need
    masks: Array  # uint8[M, H, W]; truth at the original size, top left; may hold 2 (trap 22)

    # Of packed rows, where several conversations share a row; None where a row is one.
    segments: Array = None  # int32[B, T]; tokens of one number see each other, -1 filler
    prefixes: Array = None  # int32[B, T]; the segment that a token sees, too, or -1


@dataclass(frozen=True)
class BatchShape:
    """Static shapes of a batch, part by part: how many of each, and how large."""

    rows: int = 0
    tokens: int = 0
    targets: int = 0
    images: int = 0
    region_images: int = 0
    regions: int = 0
    grounding_images: int = 0
    masks: int = 0
    mask_height: int = 0
    mask_width: int = 0

    def union(self, other: BatchShape) -> BatchShape:
        """Room enough for either."""
        return BatchShape(
            *(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(BatchShape))
        )


class Example(NamedTuple):
    """A picture and what is said about it, as a source yields it: ragged, nothing prepared yet."""

    image: Array  # uint8[H, W, 3]
    turns: tuple[str, ...]  # the user first, all answered; without the image's preamble
    boxes_xyxy_unit: Array | None  # float[n, 4], one for each <bbox> of the turns in turn
    masks: Array | None  # uint8[k, H, W], one for each [SEG] of the turns in turn
    task: str
    source: str
    id: str


class Output(NamedTuple):
    """What the model computes. Token logits are formed in the loss, where they are supervised."""

    hidden: Array  # [B, T, D] after the final norm
    mask_logits: Array  # [M, 4g, 4g] low resolution, g the grid of the grounding encoder
    iou: Array  # [M] the decoder's own estimate of the mask's quality


class Losses(NamedTuple):
    """Weighted as in the paper: total = ce + bce + dice."""

    total: Array
    ce: Array
    bce: Array
    dice: Array
