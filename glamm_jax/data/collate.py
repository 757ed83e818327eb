"""Collate samples into one fixed-shape `Batch`. All positions are computed here, in numpy.

    expanded [1, 89, <im_start>, p0 p1 ... p575, <im_end>, 12, <bbox>, 7, [SEG]]
    image_source    -1 -1 -1     0  1 ...  575   -1         -1  -1     -1  -1
    region_source                                           -1   0     -1  -1
    mask_positions                                                      ^ emits [SEG]

What does not fit raises `BatchShapeError`, naming the field; nothing is dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.encode import Sample, SampleError, check_sample
from glamm_jax.data.input_fill import InputFill, QuotaFill
from glamm_jax.data.packing import (
    FILLER_ID,
    UNPACKED,
    ExpandedConversation,
    Packing,
    Placement,
    RowPacker,
    expand,
)
from glamm_jax.errors import GLaMMError
from glamm_jax.types import Array, Batch, BatchShape

# Fields of a batch's shape that samples add to, besides rows.
COUNTED_FIELDS = ("images", "region_images", "regions", "grounding_images", "masks")


class BatchShapeError(GLaMMError):
    """Samples do not fit the shape of a batch. Names the field, the need and the limit."""


@dataclass(frozen=True)
class ExpandedSample:
    """A sample with its conversations expanded."""

    sample: Sample
    conversations: list[ExpandedConversation]


def expand_sample(
    sample: Sample, config: GLaMMConfig, dtype: np.dtype | None = None
) -> ExpandedSample:
    """Check a sample and expand its conversations.

    Args:
        sample: to be put into a batch.
        config: sizes of the model.
        dtype: of the images already in the batch; None: there are none.

    Raises:
        SampleError: the sample contradicts itself or the model.
    """
    check_sample(sample, config, dtype)
    return ExpandedSample(sample, [expand(x, config) for x in sample.conversations])


class _PlacedConversation(NamedTuple):
    """A conversation in the batch, and the slots of what it refers to (-1: none)."""

    conversation: ExpandedConversation
    placement: Placement
    image: int
    grounding_image: int
    regions: np.ndarray  # slot of the box of each `<bbox>`


class _PlacedMask(NamedTuple):
    """Position of a [SEG], slot of its grounding image, and the reference mask if known."""

    row: int
    position: int
    grounding_image: int
    reference: np.ndarray | None


class BatchBuilder:
    """Collects samples and builds a batch of them.

        builder = BatchBuilder(config)
        for sample in samples:
            builder.add(expand_sample(sample, config, builder.dtype))
        batch = builder.build(bucketed(builder.required_shape))

    Args:
        config: sizes of the model.
        packing: how conversations share rows.
        limit: largest shape of the batch; None: rows as long as the context, any number of parts.
        row_limit: shape whose `tokens` and `targets` limit a row, while nothing else is limited.
    """

    def __init__(
        self,
        config: GLaMMConfig,
        packing: Packing = UNPACKED,
        limit: BatchShape | None = None,
        row_limit: BatchShape | None = None,
    ):
        context = config.llama.max_positions
        row = limit or row_limit or BatchShape(tokens=context, targets=context)
        self._config, self._packing, self._limit = config, packing, limit
        self._rows = RowPacker(packing, row.tokens, row.targets, limit.rows if limit else None)
        self._conversations: list[_PlacedConversation] = []
        self._images: list[np.ndarray] = []
        self._region_images: list[int] = []
        self._boxes: list[tuple[np.ndarray, int]] = []
        self._grounding: list[Sample] = []
        self._masks: list[_PlacedMask] = []
        self.samples: list[Sample] = []
        self.dtype: np.dtype | None = None  # of all images

    def add(self, expanded: ExpandedSample, required: BatchShape | None = None) -> str | None:
        """Add a sample.

        Args:
            expanded: the sample.
            required: `required_shape` of the sample alone, needed only with a limit.

        Returns:
            None, or the field of the limit that it exceeds; then nothing is added.

        Raises:
            SampleError: more `<bbox>` than boxes (one box serves all, quirk 16), or more [SEG]
                than masks.
        """
        if self._limit is not None and required is not None:
            present = self.required_shape
            for name in COUNTED_FIELDS:
                needed = getattr(present, name) + getattr(required, name)
                if needed > getattr(self._limit, name):
                    return name
        placements = self._rows.add(expanded.conversations)
        if placements is None:
            return "rows"
        sample = expanded.sample
        self.samples.append(sample)
        image = grounding_image = first_box = -1
        if sample.image is not None:
            image = len(self._images)
            self._images.append(sample.image)
            self.dtype = sample.image.dtype
        if sample.boxes_xyxy_unit is not None:
            first_box = len(self._boxes)
            self._boxes += [(box, len(self._region_images)) for box in sample.boxes_xyxy_unit]
            self._region_images.append(image)
        if sample.grounding_image is not None:
            grounding_image = len(self._grounding)
            self._grounding.append(sample)
            self.dtype = sample.grounding_image.dtype
        segs = []
        for tokenized, conversation, placement in zip(
            sample.conversations, expanded.conversations, placements, strict=True
        ):
            regions = _box_indices(conversation, sample, tokenized.first_box)
            regions = regions if first_box < 0 else first_box + regions
            self._conversations.append(
                _PlacedConversation(conversation, placement, image, grounding_image, regions)
            )
            positions = placement.positions[conversation.seg_positions]
            segs += [(placement.row, int(position)) for position in positions]
        if grounding_image >= 0:
            self._add_masks(sample, segs, grounding_image)
        return None

    def _add_masks(self, sample: Sample, segs: list[tuple[int, int]], grounding_image: int) -> None:
        """Add a mask for every [SEG] of a sample; surplus references are left out (quirk 21)."""
        masks = sample.masks
        if masks is not None and len(masks) < len(segs):
            raise SampleError(f"{sample.name}: {len(segs)} [SEG], but only {len(masks)} masks")
        for i, (row, position) in enumerate(segs):
            reference = None if masks is None else masks[i]
            self._masks.append(_PlacedMask(row, position, grounding_image, reference))

    @property
    def required_shape(self) -> BatchShape:
        """The smallest shape that holds the samples."""
        sizes = [sample.original_size for sample in self._grounding] or [(0, 0)]
        used = self._rows.used
        return BatchShape(
            rows=len(used),
            tokens=max((row.tokens for row in used), default=0),
            targets=max((row.targets for row in used), default=0),
            images=len(self._images),
            region_images=len(self._region_images),
            regions=len(self._boxes),
            grounding_images=len(self._grounding),
            masks=len(self._masks),
            mask_height=max(size[0] for size in sizes),
            mask_width=max(size[1] for size in sizes),
        )

    def fill(self, shape: BatchShape) -> InputFill:
        """Return how much of a batch of this shape the samples fill."""
        used, required = self._rows.used, self.required_shape
        counts = {name: (getattr(required, name), getattr(shape, name)) for name in COUNTED_FIELDS}
        quotas = {
            "rows": (len(used), shape.rows),
            "tokens": (sum(row.tokens for row in used), shape.rows * shape.tokens),
            "targets": (sum(row.targets for row in used), shape.rows * shape.targets),
            **counts,
        }
        return {name: QuotaFill(*quota) for name, quota in quotas.items() if quota[1]}

    @property
    def is_full(self) -> bool:
        """Whether no sample with an image can be added within the limit."""
        if self._limit is None:
            return False
        if len(self._images) >= self._limit.images:
            return True
        used = self._rows.used
        if len(used) < self._limit.rows:
            return False
        free_tokens = self._limit.tokens - min(row.tokens for row in used)
        return not self._packing.fill_rows or free_tokens <= self._config.clip.num_patches

    def build(self, shape: BatchShape) -> Batch:
        """Make the batch, padded to a shape.

        Raises:
            BatchShapeError: a field of the shape is too small.
        """
        required = self.required_shape
        problems = [
            f"{f.name}: {getattr(required, f.name)} needed, the limit is {getattr(shape, f.name)}"
            for f in fields(BatchShape)
            if getattr(required, f.name) > getattr(shape, f.name)
        ]
        if problems:
            raise BatchShapeError("the batch does not fit: " + "; ".join(problems))
        return Batch(
            **self._token_arrays(shape),
            **self._image_arrays(shape),
            **self._mask_arrays(shape),
            **self._segment_arrays(shape),
        )

    def _token_arrays(self, shape: BatchShape) -> dict[str, Array]:
        token_shape, target_shape = (shape.rows, shape.tokens), (shape.rows, shape.targets)
        arrays = {
            "token_ids": np.full(token_shape, FILLER_ID, np.int32),
            "token_valid": np.zeros(token_shape, bool),
            "positions": np.tile(np.arange(shape.tokens, dtype=np.int32), (shape.rows, 1)),
            "image_source": np.full(token_shape, -1, np.int32),
            "region_source": np.full(token_shape, -1, np.int32),
            "row_grounding_image": np.full(shape.rows, -1, np.int32),
            "target_positions": np.zeros(target_shape, np.int32),
            "target_ids": np.zeros(target_shape, np.int32),
            "target_valid": np.zeros(target_shape, bool),
        }
        num_targets = [0] * shape.rows
        for conversation, placement, image, grounding_image, regions in self._conversations:
            row, positions = placement.row, placement.positions
            patches, targets = conversation.patches, conversation.target_positions
            arrays["token_ids"][row, positions] = conversation.token_ids
            arrays["token_valid"][row, positions] = conversation.valid
            arrays["positions"][row, positions] = np.arange(len(positions))
            first_patch = image * self._config.clip.num_patches
            arrays["image_source"][row, positions] = np.where(
                patches >= 0, first_patch + patches, -1
            )
            arrays["region_source"][row, positions[conversation.region_positions]] = regions
            if arrays["row_grounding_image"][row] < 0:
                arrays["row_grounding_image"][row] = grounding_image
            start = num_targets[row]
            num_targets[row] = stop = start + len(targets)
            arrays["target_positions"][row, start:stop] = positions[targets]
            arrays["target_ids"][row, start:stop] = conversation.labels[targets + 1]
            arrays["target_valid"][row, start:stop] = True
        return arrays

    def _segment_arrays(self, shape: BatchShape) -> dict[str, Array]:
        """Attention segments of packed rows; none where every row is one conversation."""
        if self._packing == UNPACKED:
            return {}
        segments, prefixes = (np.full((shape.rows, shape.tokens), -1, np.int32) for _ in range(2))
        for placed in self._conversations:
            row, positions, segment, prefix_segment, prefix = placed.placement
            segments[row, positions[:prefix]] = prefix_segment
            segments[row, positions[prefix:]] = segment
            prefixes[row, positions[prefix:]] = prefix_segment
        return {"segments": segments, "prefixes": prefixes}

    def _image_arrays(self, shape: BatchShape) -> dict[str, Array]:
        clip, sam = self._config.clip.image_size, self._config.sam.image_size
        region_images = np.full(shape.region_images, -1, np.int32)
        region_images[: len(self._region_images)] = self._region_images
        dtype = self._boxes[0][0].dtype if self._boxes else np.float32
        boxes = np.zeros((shape.regions, 4), dtype)
        box_image = np.full(shape.regions, -1, np.int32)
        for i, (box, image) in enumerate(self._boxes):
            boxes[i], box_image[i] = box, image
        resized, original = (np.ones((shape.grounding_images, 2), np.int32) for _ in range(2))
        for i, sample in enumerate(self._grounding):
            resized[i], original[i] = sample.resized_size, sample.original_size
        # Below the image the canvas is zeros: they are written, but not read from the sample.
        grounding = [
            sample.grounding_image[: sample.resized_size[0]]
            for sample in self._grounding
            if sample.grounding_image is not None
        ]
        dtype = np.dtype(np.uint8) if self.dtype is None else self.dtype
        return {
            "images": _stack(self._images, shape.images, (clip, clip, 3), dtype),
            "region_images": region_images,
            "boxes_xyxy_unit": boxes,
            "box_image": box_image,
            "grounding_images": _stack(grounding, shape.grounding_images, (sam, sam, 3), dtype),
            "resized_sizes": resized,
            "original_sizes": original,
        }

    def _mask_arrays(self, shape: BatchShape) -> dict[str, Array]:
        rows, positions, images = (np.zeros(shape.masks, np.int32) for _ in range(3))
        valid, has_truth = np.zeros(shape.masks, bool), np.zeros(shape.masks, bool)
        # Most of it is padding: pages that are never written are never allocated.
        masks = np.zeros((shape.masks, shape.mask_height, shape.mask_width), np.uint8)
        for i, (row, position, image, reference) in enumerate(self._masks):
            rows[i], positions[i], images[i], valid[i] = row, position, image, True
            if reference is not None:
                has_truth[i] = True
                masks[i, : reference.shape[0], : reference.shape[1]] = reference
        return {
            "mask_rows": rows,
            "mask_positions": positions,
            "mask_image": images,
            "mask_valid": valid,
            "mask_has_truth": has_truth,
            "masks": masks,
        }


def build_batch(
    samples: Sequence[Sample],
    config: GLaMMConfig,
    packing: Packing = UNPACKED,
    row_limit: BatchShape | None = None,
) -> BatchBuilder:
    """A builder that holds these samples.

    Args:
        samples: of the batch.
        config: sizes of the model.
        packing: how conversations share rows.
        row_limit: shape whose `tokens` and `targets` limit a row; None: the model's context.

    Raises:
        SampleError: a sample contradicts itself, the model or the others.
    """
    builder = BatchBuilder(config, packing, row_limit=row_limit)
    for sample in samples:
        builder.add(expand_sample(sample, config, builder.dtype))
    return builder


def collate(
    samples: Sequence[Sample],
    config: GLaMMConfig,
    shape: BatchShape | None = None,
    packing: Packing = UNPACKED,
) -> Batch:
    """One batch of these samples.

    Args:
        samples: of the batch.
        config: sizes of the model.
        shape: of the batch; None: just large enough.
        packing: how conversations share rows. It changes no result.

    Raises:
        BatchShapeError: they do not fit the shape.
        SampleError: a sample contradicts itself, the model or the others.
    """
    builder = build_batch(samples, config, packing, shape)
    return builder.build(shape or builder.required_shape)


def join_slices(slices: Mapping[int, Batch]) -> Batch:
    """Concatenate batch slices; their indices still count from the start of their slice.

    Every process joins its own slices; those of all processes together are the step's batch.

    Args:
        slices: batches of one shape, by their number in the step's batch.
    """
    numbered = [
        batch._replace(slices=np.array([number], np.int32)) for number, batch in slices.items()
    ]
    if len(numbered) == 1:
        return numbered[0]
    arrays = zip(*numbered, strict=True)
    return Batch(*(None if part[0] is None else np.concatenate(part) for part in arrays))


def bucket(size: int, steps: int = 4) -> int:
    """Round a size up to one of few, `steps` of them for each doubling.

    4 for each doubling: ... 512 640 768 896 1024 1280 ..., at most a quarter is padding; 1: powers
    of two.
    """
    unit = max(1, (1 << (size - 1).bit_length() >> 1) // steps)
    return -(-size // unit) * unit


def bucketed(shape: BatchShape) -> BatchShape:
    """Round sizes up to buckets and counts to powers of two, so that few shapes are compiled."""
    sizes = ("tokens", "targets", "mask_height", "mask_width")
    return BatchShape(
        **{
            f.name: bucket(getattr(shape, f.name), 4 if f.name in sizes else 1)
            for f in fields(BatchShape)
        }
    )


def divisible(shape: BatchShape, divisor: int) -> BatchShape:
    """Round the counts of what is encoded up to multiples, so that devices can divide them."""
    counts = ("rows", "images", "region_images", "regions", "grounding_images")
    rounded = {name: -(-getattr(shape, name) // divisor) * divisor for name in counts}
    return replace(shape, **rounded)


def _box_indices(conversation: ExpandedConversation, sample: Sample, first_box: int) -> np.ndarray:
    """Index in the sample of the box of each `<bbox>`; -1 without boxes; one box serves all."""
    count, boxes = len(conversation.region_positions), sample.boxes_xyxy_unit
    if boxes is None:
        return np.full(count, -1, np.int32)
    remaining = len(boxes) - first_box
    if count > remaining and len(boxes) != 1:
        raise SampleError(
            f"{sample.name}: {count} <bbox> in a conversation, but {remaining} boxes; give a box "
            "for each"
        )
    index = np.zeros(count, np.int32) if len(boxes) == 1 else np.arange(count, dtype=np.int32)
    return first_box + index


def _stack(
    arrays: list[np.ndarray], count: int, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Stack arrays of one shape, or of fewer rows, padded with zeros to `count` of them."""
    stacked = np.empty((count, *shape), dtype)  # megabytes an image: nothing is written twice
    for i, array in enumerate(arrays):
        stacked[i, : len(array)], stacked[i, len(array) :] = array, 0
    stacked[len(arrays) :] = 0
    return stacked
