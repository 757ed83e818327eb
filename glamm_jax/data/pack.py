"""Prepared samples to one fixed-shape `Batch`: every position is computed here, once, in numpy.

    row      [1, 89, <im_start>, IMAGE, <im_end>, 12, <bbox>, 7, [SEG]]        one id an image
    expanded [1, 89, <im_start>, p0 p1 ... p575, <im_end>, 12, <bbox>, 7, [SEG]]
    image_source    -1 -1 -1     0  1 ...  575   -1         -1  -1     -1  -1
    region_source                                           -1   0     -1  -1
    mask_positions                                                      ^ emits [SEG]

What does not fit raises `CapacityError`, naming what; nothing is sliced away in silence.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.sample import Row, RowError, Sample, check_sample
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID
from glamm_jax.types import Array, Batch

FILLER = -1  # no token: embeds as zero


class CapacityError(ValueError):
    """A batch does not fit the shapes it was given. Names the part, the need and the room."""


@dataclass(frozen=True)
class Capacity:
    """Static shapes of a batch, part by part."""

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

    def union(self, other: Capacity) -> Capacity:
        """Room enough for either."""
        return Capacity(
            *(max(getattr(self, f.name), getattr(other, f.name)) for f in fields(Capacity))
        )


@dataclass
class _Expanded:
    """A row with its image placeholders expanded."""

    token_ids: np.ndarray
    valid: np.ndarray
    labels: np.ndarray
    patches: np.ndarray  # index of the patch that stands here, or -1
    regions: np.ndarray  # positions of <bbox>
    emitting: np.ndarray  # positions whose hidden state emits a [SEG]


class _Placed(NamedTuple):
    """A row, the slots of the two images it speaks of (or -1), and the box of each `<bbox>`."""

    row: _Expanded
    image: int
    grounding_image: int
    boxes: np.ndarray


class _Mask(NamedTuple):
    """Where a [SEG] is emitted, the slot of its grounding image, and its truth, if known."""

    row: int
    position: int
    image: int
    truth: np.ndarray | None


@dataclass
class _Parts:
    """What a batch needs, before it has a shape."""

    rows: list[_Placed] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    region_images: list[int] = field(default_factory=list)
    boxes: list[tuple[np.ndarray, int]] = field(default_factory=list)
    grounding: list[Sample] = field(default_factory=list)
    masks: list[_Mask] = field(default_factory=list)
    dtype: np.dtype | None = None  # of all images


def expand(row: Row, config: GLaMMConfig) -> _Expanded:
    """Put `num_patches` positions in the place of each IMAGE_ID.

    A sample has one image, so a second IMAGE_ID in a row shows the same picture again.

    The validity of ids is extended on the LEFT by what the images add, as in the original (trap 7):
    an unknown word in front of the image hides a patch instead of itself. Rows are right-padded
    with the pad id, which is also the unknown word's (trap 8).
    """
    ids = np.asarray(row.token_ids, np.int64)
    patches = config.clip.num_patches
    is_image = ids == IMAGE_ID
    lengths = np.where(is_image, patches, 1)
    start = np.cumsum(lengths) - lengths
    total = int(lengths.sum())
    expanded = np.full(total, FILLER, np.int32)
    expanded[start[~is_image]] = ids[~is_image]
    labels = np.full(total, IGNORE_ID, np.int32)
    labels[start[~is_image]] = np.asarray(row.labels)[~is_image]
    patch = np.full(total, -1, np.int32)
    for first in start[is_image]:
        patch[first : first + patches] = np.arange(patches)
    grown = int((lengths - 1).sum())
    valid = np.concatenate([np.ones(grown, bool), ids != config.tokens.pad])
    # The state that emits a [SEG] is the one before it (trap 2). It is found in the expanded row,
    # so any grid and any place of the image work (repairs trap 1, equal where the original works).
    seg = np.flatnonzero(ids == config.tokens.seg)
    return _Expanded(
        expanded,
        valid,
        labels,
        patch,
        start[ids == config.tokens.region].astype(np.int32),
        (start[seg[seg > 0]] - 1).astype(np.int32),
    )


def pack(samples: list[Sample], config: GLaMMConfig, capacity: Capacity | None = None) -> Batch:
    """One batch of these samples, as large as `capacity` or just large enough.

    Raises:
        CapacityError: a part does not fit.
        RowError: more `<bbox>` than boxes (one box serves all, trap 16), more [SEG] than masks,
            ids outside the vocabulary, images, masks or boxes that do not fit the model, each
            other or the rows (see `check_sample`).
    """
    parts = _collect(samples, config)
    needed = _needed(parts)
    room = capacity or needed
    problems = [
        f"{f.name}: {getattr(needed, f.name)} needed, room for {getattr(room, f.name)}"
        for f in fields(Capacity)
        if getattr(needed, f.name) > getattr(room, f.name)
    ]
    if problems:
        raise CapacityError("the batch does not fit: " + "; ".join(problems))
    return Batch(
        **_token_arrays(parts, room, config),
        **_image_arrays(parts, room, config),
        **_mask_arrays(parts, room),
    )


def bucket(size: int, steps: int = 4) -> int:
    """The next of few sizes, `steps` of them a doubling: at most a quarter is room to spare.

    4 a doubling: ... 512 640 768 896 1024 1280 ...; 1 a doubling: powers of two.
    """
    unit = max(1, (1 << (size - 1).bit_length() >> 1) // steps)
    return -(-size // unit) * unit


def bucketed(capacity: Capacity) -> Capacity:
    """Sizes rounded up to a bucket and counts to a power of two: a service compiles few shapes."""
    sizes = ("tokens", "targets", "mask_height", "mask_width")
    return Capacity(
        **{
            f.name: bucket(getattr(capacity, f.name), 4 if f.name in sizes else 1)
            for f in fields(Capacity)
        }
    )


def fit(samples: list[Sample], config: GLaMMConfig) -> Capacity:
    """The smallest capacity that holds these samples."""
    return _needed(_collect(samples, config))


def _collect(samples: list[Sample], config: GLaMMConfig) -> _Parts:
    parts = _Parts()
    for sample in samples:
        check_sample(sample, config, parts.dtype)
        image = grounding = first_box = -1
        if sample.image is not None:
            image = len(parts.images)
            parts.images.append(sample.image)
            parts.dtype = sample.image.dtype
        if sample.boxes_xyxy_unit is not None:
            first_box = len(parts.boxes)
            parts.boxes += [(box, len(parts.region_images)) for box in sample.boxes_xyxy_unit]
            parts.region_images.append(image)
        if sample.grounding_image is not None:
            grounding = len(parts.grounding)
            parts.grounding.append(sample)
            parts.dtype = sample.grounding_image.dtype
        first_row = len(parts.rows)
        for row in sample.rows:
            expanded = expand(row, config)
            boxes = _regions_of(expanded, sample, first_box)
            parts.rows.append(_Placed(expanded, image, grounding, boxes))
        if grounding >= 0:
            _collect_masks(parts, sample, first_row)
    return parts


def _regions_of(row: _Expanded, sample: Sample, first_box: int) -> np.ndarray:
    """Which box stands at each `<bbox>` of a row (trap 16)."""
    tokens, boxes = len(row.regions), sample.boxes_xyxy_unit
    if boxes is None:
        return np.full(tokens, -1, np.int32)
    if tokens > len(boxes) and len(boxes) != 1:
        raise RowError(
            f"{sample.name}: {tokens} <bbox> in a row, but {len(boxes)} boxes; give a box for each"
        )
    index = np.zeros(tokens, np.int32) if len(boxes) == 1 else np.arange(tokens, dtype=np.int32)
    return first_box + index


def _collect_masks(parts: _Parts, sample: Sample, first_row: int) -> None:
    """A mask for every [SEG] of the sample's rows; surplus truth is left out (trap 21)."""
    emitting = [
        (row, int(position))
        for row in range(first_row, len(parts.rows))
        for position in parts.rows[row].row.emitting
    ]
    truth = sample.masks
    if truth is not None and len(truth) < len(emitting):
        raise RowError(f"{sample.name}: {len(emitting)} [SEG], but only {len(truth)} masks")
    for number, (row, position) in enumerate(emitting):
        mask = None if truth is None else truth[number]
        parts.masks.append(_Mask(row, position, parts.rows[row].grounding_image, mask))


def _needed(parts: _Parts) -> Capacity:
    sizes = [sample.original_size for sample in parts.grounding] or [(0, 0)]
    rows = [placed.row for placed in parts.rows]
    return Capacity(
        rows=len(rows),
        tokens=max((len(row.token_ids) for row in rows), default=0),
        targets=max((int((row.labels[1:] != IGNORE_ID).sum()) for row in rows), default=0),
        images=len(parts.images),
        region_images=len(parts.region_images),
        regions=len(parts.boxes),
        grounding_images=len(parts.grounding),
        masks=len(parts.masks),
        mask_height=max(size[0] for size in sizes),
        mask_width=max(size[1] for size in sizes),
    )


def _token_arrays(parts: _Parts, room: Capacity, config: GLaMMConfig) -> dict[str, Array]:
    shape, targets = (room.rows, room.tokens), (room.rows, room.targets)
    out = {
        "token_ids": np.full(shape, FILLER, np.int32),
        "token_valid": np.zeros(shape, bool),
        "positions": np.tile(np.arange(room.tokens, dtype=np.int32), (room.rows, 1)),
        "image_source": np.full(shape, -1, np.int32),
        "region_source": np.full(shape, -1, np.int32),
        "row_grounding_image": np.full(room.rows, -1, np.int32),
        "target_positions": np.zeros(targets, np.int32),
        "target_ids": np.zeros(targets, np.int32),
        "target_valid": np.zeros(targets, bool),
    }
    for i, (row, image, grounding_image, boxes) in enumerate(parts.rows):
        length = len(row.token_ids)
        out["token_ids"][i, :length] = row.token_ids
        out["token_valid"][i, :length] = row.valid
        first_patch = image * config.clip.num_patches
        source = np.where(row.patches >= 0, first_patch + row.patches, -1)
        out["image_source"][i, :length] = source
        out["region_source"][i, row.regions] = boxes
        out["row_grounding_image"][i] = grounding_image
        learned = np.flatnonzero(row.labels[1:] != IGNORE_ID)
        out["target_positions"][i, : len(learned)] = learned
        out["target_ids"][i, : len(learned)] = row.labels[1:][learned]
        out["target_valid"][i, : len(learned)] = True
    return out


def _stack(
    arrays: list[np.ndarray], count: int, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Arrays of one shape, padded with zeros to `count` of them."""
    out = np.zeros((count, *shape), dtype)
    for i, array in enumerate(arrays):
        out[i] = array
    return out


def _image_arrays(parts: _Parts, room: Capacity, config: GLaMMConfig) -> dict[str, Array]:
    clip, sam = config.clip.image_size, config.sam.image_size
    region_images = np.full(room.region_images, -1, np.int32)
    region_images[: len(parts.region_images)] = parts.region_images
    boxes = [box for box, _ in parts.boxes]
    dtype = boxes[0].dtype if boxes else np.float32
    box_array, box_image = np.zeros((room.regions, 4), dtype), np.full(room.regions, -1, np.int32)
    for i, (box, image) in enumerate(parts.boxes):
        box_array[i], box_image[i] = box, image
    resized, original = (np.ones((room.grounding_images, 2), np.int32) for _ in range(2))
    for i, sample in enumerate(parts.grounding):
        resized[i], original[i] = sample.resized_size, sample.original_size
    grounding = [s.grounding_image for s in parts.grounding if s.grounding_image is not None]
    kind = np.dtype(np.uint8) if parts.dtype is None else parts.dtype
    return {
        "images": _stack(parts.images, room.images, (clip, clip, 3), kind),
        "region_images": region_images,
        "boxes_xyxy_unit": box_array,
        "box_image": box_image,
        "grounding_images": _stack(grounding, room.grounding_images, (sam, sam, 3), kind),
        "resized_sizes": resized,
        "original_sizes": original,
    }


def _mask_arrays(parts: _Parts, room: Capacity) -> dict[str, Array]:
    rows, positions, images = (np.zeros(room.masks, np.int32) for _ in range(3))
    valid, has_truth = np.zeros(room.masks, bool), np.zeros(room.masks, bool)
    truth = np.zeros((room.masks, room.mask_height, room.mask_width), np.uint8)
    for i, (row, position, image, mask) in enumerate(parts.masks):
        rows[i], positions[i], images[i], valid[i] = row, position, image, True
        if mask is not None:
            has_truth[i] = True
            truth[i, : mask.shape[0], : mask.shape[1]] = mask
    return {
        "mask_rows": rows,
        "mask_positions": positions,
        "mask_image": images,
        "mask_valid": valid,
        "mask_has_truth": has_truth,
        "masks": truth,
    }
