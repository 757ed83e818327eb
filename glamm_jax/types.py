"""The types that the packages exchange, and the legend of shape letters.

Only the standard library is imported here, so that data workers can import this module.

    B rows of tokens        T tokens of a row          S supervised tokens of a row
    I images for CLIP       P patches of an image      D width of the LLM
    G images for SAM        M masks                    H W height and width in pixels
    Q images with regions   R regions                  C channels
    L layers                N heads                    K width of a head, or slices of a batch
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, NamedTuple

Array = Any  # numpy on the host, jax on the device


class Batch(NamedTuple):
    """The input of one step. Every shape is static: each part has a capacity and validity masks.

    Parts refer to each other by integer indices, computed on the host by `glamm_jax.data.collate`.
    So a batch may mix all tasks, and an encoder runs only on the images that need it. The index -1
    means "none".

    A batch consists of one or several slices of one shape, one behind the other in every array.
    An index counts from the start of its slice's part of the array that it refers to. So slices
    are closed: devices that divide them among themselves need nothing of each other.
    """

    token_ids: Array  # int32[B, T]; -1 is embedded as zero (padding of a text-only row, quirk 7)
    token_valid: Array  # bool[B, T]; False is never attended to
    positions: Array  # int32[B, T]; rotary positions
    target_positions: Array  # int32[B, S]; position of the hidden state that predicts a target
    target_ids: Array  # int32[B, S]; the token to predict there
    target_valid: Array  # bool[B, S]

    images: Array  # uint8[I, H, W, 3], or float if already normalized
    image_source: Array  # int32[B, T]; image * P + patch that replaces this token, or -1

    region_images: Array  # int32[Q]; index of `images` whose pyramid is built, or -1
    boxes_xyxy_unit: Array  # float[R, 4]; x0 y0 x1 y1 relative to the original image, in [0, 1]
    box_image: Array  # int32[R]; index of `region_images`
    region_source: Array  # int32[B, T]; region that replaces this token, or -1

    row_grounding_image: Array  # int32[B]; index of `grounding_images` of the row, or -1
    grounding_images: Array  # uint8[G, H, W, 3] padded bottom right, or float if normalized
    resized_sizes: Array  # int32[G, 2]; height and width of the image inside the padding
    original_sizes: Array  # int32[G, 2]; height and width of the original image
    mask_rows: Array  # int32[M]; row of the hidden state that emits this [SEG]
    mask_positions: Array  # int32[M]; its position
    mask_image: Array  # int32[M]; index of `grounding_images`
    mask_valid: Array  # bool[M]; False: padding
    mask_has_truth: Array  # bool[M]; `masks` holds the ground truth, as the losses need
    masks: Array  # uint8[M, H, W]; ground truth, original size, top left; may hold 2 (quirk 22)

    # Of packed rows, which hold several conversations each; None if rows are not packed.
    segments: Array = None  # int32[B, T]; tokens of one segment attend to each other, -1: padding
    prefixes: Array = (
        None  # int32[B, T]; the segment that a token attends to besides its own, or -1
    )

    slices: Array = None  # int32[K]; number of each slice in the step's batch; None: one slice

    @property
    def num_slices(self) -> int:
        """The number of slices."""
        return 1 if self.slices is None else self.slices.shape[-1]


@dataclass(frozen=True)
class BatchShape:
    """The static shape of a batch.

    Attributes:
        rows: of tokens.
        tokens: per row.
        targets: supervised tokens per row.
        images: for CLIP.
        region_images: images with regions.
        regions: boxes.
        grounding_images: for SAM.
        masks: [SEG] tokens.
        mask_height: of the ground truth in pixels.
        mask_width: of the ground truth in pixels.
    """

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
        """Return the smallest shape that is at least as large as both in every field."""
        return BatchShape(
            *(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(BatchShape))
        )


class Example(NamedTuple):
    """An image and a conversation about it, as a source yields it: not padded or preprocessed."""

    image: Array  # uint8[H, W, 3]
    turns: tuple[str, ...]  # question, answer, question, ...; without the preamble of the image
    boxes_xyxy_unit: Array | None  # float[n, 4], one for each <bbox> of the turns, in order
    masks: Array | None  # uint8[k, H, W], one for each [SEG] of the turns, in order
    task: str
    source: str
    id: str


class Output(NamedTuple):
    """The output of the model. The loss computes token logits, for supervised tokens only."""

    hidden: Array  # [B, T, D] after the final norm
    mask_logits: Array  # [M, 4g, 4g] low resolution, g: side of the grounding encoder's grid
    iou: Array  # [M] the decoder's estimate of the mask's IoU


class Losses(NamedTuple):
    """The weighted losses and their sum: total = ce + bce + dice (+ iou)."""

    total: Array
    ce: Array
    bce: Array
    dice: Array
    iou: Array | None = None  # None: its weight is 0
