"""Prepared samples to one fixed-shape `Batch`: every position is computed here, once, in numpy.

    expanded [1, 89, <im_start>, p0 p1 ... p575, <im_end>, 12, <bbox>, 7, [SEG]]
    image_source    -1 -1 -1     0  1 ...  575   -1         -1  -1     -1  -1
    region_source                                           -1   0     -1  -1
    mask_positions                                                      ^ emits [SEG]

What does not fit raises `CapacityError`, naming what; nothing is sliced away in silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.packing import FILLER, Expanded, Packing, Place, Rows, expand
from glamm_jax.data.sample import RowError, Sample, check_sample
from glamm_jax.errors import GLaMMError
from glamm_jax.types import Array, Batch, BatchShape

UNPACKED = Packing()


class CapacityError(GLaMMError):
    """A batch does not fit the shapes it was given. Names the part, the need and the room."""


class _Placed(NamedTuple):
    """A conversation, where it stands, the slots of the two images it speaks of (or -1), and the
    box of each `<bbox>`."""

    talk: Expanded
    place: Place
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
class Parts:
    """Samples that make up a batch, before it has a shape; `rows` hold no more than they may."""

    rows: Rows
    samples: list[Sample] = field(default_factory=list)
    placed: list[_Placed] = field(default_factory=list)
    images: list[np.ndarray] = field(default_factory=list)
    region_images: list[int] = field(default_factory=list)
    boxes: list[tuple[np.ndarray, int]] = field(default_factory=list)
    grounding: list[Sample] = field(default_factory=list)
    masks: list[_Mask] = field(default_factory=list)
    dtype: np.dtype | None = None  # of all images

    def add(self, sample: Sample, talks: Sequence[Expanded]) -> bool:
        """Take a sample with its rows, expanded. False: the rows have no room, nothing is taken.

        Raises: RowError, as `pack`.
        """
        places = self.rows.add(talks)
        if places is None:
            return False
        self.samples.append(sample)
        image = grounding = first_box = -1
        if sample.image is not None:
            image = len(self.images)
            self.images.append(sample.image)
            self.dtype = sample.image.dtype
        if sample.boxes_xyxy_unit is not None:
            first_box = len(self.boxes)
            self.boxes += [(box, len(self.region_images)) for box in sample.boxes_xyxy_unit]
            self.region_images.append(image)
        if sample.grounding_image is not None:
            grounding = len(self.grounding)
            self.grounding.append(sample)
            self.dtype = sample.grounding_image.dtype
        first = len(self.placed)
        for row, talk, place in zip(sample.rows, talks, places, strict=True):
            boxes = _regions_of(talk, sample, row.first_box)
            boxes = boxes if first_box < 0 else first_box + boxes
            self.placed.append(_Placed(talk, place, image, grounding, boxes))
        if grounding >= 0:
            _collect_masks(self, sample, first)
        return True

    @property
    def needed(self) -> BatchShape:
        """The smallest capacity that holds what was taken."""
        sizes = [sample.original_size for sample in self.grounding] or [(0, 0)]
        used = self.rows.used
        return BatchShape(
            rows=len(used),
            tokens=max((tokens for tokens, _, _ in used), default=0),
            targets=max((targets for _, targets, _ in used), default=0),
            images=len(self.images),
            region_images=len(self.region_images),
            regions=len(self.boxes),
            grounding_images=len(self.grounding),
            masks=len(self.masks),
            mask_height=max(size[0] for size in sizes),
            mask_width=max(size[1] for size in sizes),
        )


def pack(
    samples: list[Sample],
    config: GLaMMConfig,
    capacity: BatchShape | None = None,
    packing: Packing = UNPACKED,
) -> Batch:
    """One batch of these samples, as large as `capacity` or just large enough.

    packing: whether conversations share rows, which changes no number.

    Raises:
        CapacityError: a part does not fit.
        RowError: more `<bbox>` than boxes (one box serves all, trap 16), more [SEG] than masks,
            ids outside the vocabulary, images, masks or boxes that do not fit the model, each
            other or the rows (see `check_sample`).
    """
    parts = gather(samples, config, packing, capacity)
    return shaped(parts, config, capacity or parts.needed)


def shaped(parts: Parts, config: GLaMMConfig, room: BatchShape) -> Batch:
    """The batch of gathered samples, as large as `room`.

    Raises: CapacityError, as `pack`.
    """
    needed = parts.needed
    problems = [
        f"{f.name}: {getattr(needed, f.name)} needed, room for {getattr(room, f.name)}"
        for f in fields(BatchShape)
        if getattr(needed, f.name) > getattr(room, f.name)
    ]
    if problems:
        raise CapacityError("the batch does not fit: " + "; ".join(problems))
    return Batch(
        **_token_arrays(parts, room, config),
        **_image_arrays(parts, room, config),
        **_mask_arrays(parts, room),
        **_segment_arrays(parts, room),
    )


def join(batches: Mapping[int, Batch], capacity: BatchShape, patches: int) -> Batch:
    """Batches of one capacity, by their number, one behind the other.

    Indices count from the start of batch 0, whether it is among these or not: every process of many
    joins its own, and all of them together are one batch.
    """
    slots = {
        "image_source": capacity.images * patches,
        "region_images": capacity.images,
        "box_image": capacity.region_images,
        "region_source": capacity.regions,
        "row_grounding_image": capacity.grounding_images,
        "mask_rows": capacity.rows,
        "mask_image": capacity.grounding_images,
    }
    moved = [
        batch._replace(
            **{
                name: np.where(index >= 0, index + number * count, index)
                for name, count in slots.items()
                for index in (getattr(batch, name),)
            }
        )
        for number, batch in batches.items()
    ]
    if len(moved) == 1:
        return moved[0]
    parts = zip(*moved, strict=True)
    return Batch(*(None if part[0] is None else np.concatenate(part) for part in parts))


def bucket(size: int, steps: int = 4) -> int:
    """The next of few sizes, `steps` of them a doubling: at most a quarter is room to spare.

    4 a doubling: ... 512 640 768 896 1024 1280 ...; 1 a doubling: powers of two.
    """
    unit = max(1, (1 << (size - 1).bit_length() >> 1) // steps)
    return -(-size // unit) * unit


def bucketed(capacity: BatchShape) -> BatchShape:
    """Sizes rounded up to a bucket and counts to a power of two: a service compiles few shapes."""
    sizes = ("tokens", "targets", "mask_height", "mask_width")
    return BatchShape(
        **{
            f.name: bucket(getattr(capacity, f.name), 4 if f.name in sizes else 1)
            for f in fields(BatchShape)
        }
    )


def divisible(capacity: BatchShape, by: int) -> BatchShape:
    """The counts of what is encoded, rounded up to multiples, so that devices can share them."""
    counts = ("rows", "images", "region_images", "regions", "grounding_images")
    return replace(capacity, **{name: -(-getattr(capacity, name) // by) * by for name in counts})


def fit(
    samples: list[Sample],
    config: GLaMMConfig,
    packing: Packing = UNPACKED,
    capacity: BatchShape | None = None,
) -> BatchShape:
    """The smallest capacity that holds these samples; packed rows are as long as `capacity` says,
    or as the model allows."""
    return gather(samples, config, packing, capacity).needed


def gather(
    samples: Sequence[Sample], config: GLaMMConfig, packing: Packing, capacity: BatchShape | None
) -> Parts:
    """Samples, checked and expanded; packed rows are as long as `capacity` says, or as the model
    allows.

    Raises: RowError, as `pack`.
    """
    context = config.llama.max_positions
    tokens, targets = (capacity.tokens, capacity.targets) if capacity else (context, context)
    parts = Parts(Rows(packing, tokens, targets))
    for sample in samples:
        check_sample(sample, config, parts.dtype)
        parts.add(sample, [expand(row, config) for row in sample.rows])
    return parts


def _regions_of(talk: Expanded, sample: Sample, first_box: int) -> np.ndarray:
    """Which box of the sample stands at each `<bbox>` of a conversation, or -1 (trap 16)."""
    tokens, boxes = len(talk.regions), sample.boxes_xyxy_unit
    if boxes is None:
        return np.full(tokens, -1, np.int32)
    left = len(boxes) - first_box
    if tokens > left and len(boxes) != 1:
        raise RowError(
            f"{sample.name}: {tokens} <bbox> in a row, but {left} boxes; give a box for each"
        )
    index = np.zeros(tokens, np.int32) if len(boxes) == 1 else np.arange(tokens, dtype=np.int32)
    return first_box + index


def _collect_masks(parts: Parts, sample: Sample, first: int) -> None:
    """A mask for every [SEG] of the sample's rows; surplus truth is left out (trap 21)."""
    emitting = [
        (placed, int(placed.place.places[position]))
        for placed in parts.placed[first:]
        for position in placed.talk.emitting
    ]
    truth = sample.masks
    if truth is not None and len(truth) < len(emitting):
        raise RowError(f"{sample.name}: {len(emitting)} [SEG], but only {len(truth)} masks")
    for number, (placed, position) in enumerate(emitting):
        mask = None if truth is None else truth[number]
        parts.masks.append(_Mask(placed.place.row, position, placed.grounding_image, mask))


def _token_arrays(parts: Parts, room: BatchShape, config: GLaMMConfig) -> dict[str, Array]:
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
    learned_before = [0] * room.rows
    for talk, place, image, grounding_image, boxes in parts.placed:
        row, places = place.row, place.places
        out["token_ids"][row, places] = talk.token_ids
        out["token_valid"][row, places] = talk.valid
        out["positions"][row, places] = np.arange(len(places))
        first_patch = image * config.clip.num_patches
        source = np.where(talk.patches >= 0, first_patch + talk.patches, -1)
        out["image_source"][row, places] = source
        out["region_source"][row, places[talk.regions]] = boxes
        if out["row_grounding_image"][row] < 0:
            out["row_grounding_image"][row] = grounding_image
        start = learned_before[row]
        learned_before[row] = stop = start + len(talk.learned)
        out["target_positions"][row, start:stop] = places[talk.learned]
        out["target_ids"][row, start:stop] = talk.labels[talk.learned + 1]
        out["target_valid"][row, start:stop] = True
    return out


def _segment_arrays(parts: Parts, room: BatchShape) -> dict[str, Array]:
    """Who sees whom in packed rows; nothing where every row is one conversation."""
    if parts.rows.packing == UNPACKED:
        return {}
    segments, prefixes = (np.full((room.rows, room.tokens), -1, np.int32) for _ in range(2))
    for placed in parts.placed:
        row, places, segment, prefix_segment, shared = placed.place
        segments[row, places[:shared]] = prefix_segment
        segments[row, places[shared:]] = segment
        prefixes[row, places[shared:]] = prefix_segment
    return {"segments": segments, "prefixes": prefixes}


def _stack(
    arrays: list[np.ndarray], count: int, shape: tuple[int, ...], dtype: np.dtype
) -> np.ndarray:
    """Arrays of one shape, or of fewer rows, padded with zeros to `count` of them."""
    out = np.empty((count, *shape), dtype)  # megabytes a picture: nothing is written twice
    for i, array in enumerate(arrays):
        out[i, : len(array)], out[i, len(array) :] = array, 0
    out[len(arrays) :] = 0
    return out


def _image_arrays(parts: Parts, room: BatchShape, config: GLaMMConfig) -> dict[str, Array]:
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
    # Below the picture a canvas is zeros: they are written here, but not read there.
    grounding = [
        s.grounding_image[: s.resized_size[0]]
        for s in parts.grounding
        if s.grounding_image is not None
    ]
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


def _mask_arrays(parts: Parts, room: BatchShape) -> dict[str, Array]:
    rows, positions, images = (np.zeros(room.masks, np.int32) for _ in range(3))
    valid, has_truth = np.zeros(room.masks, bool), np.zeros(room.masks, bool)
    # Zeroed memory that nobody writes to costs nothing, and most of it is room to spare.
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
