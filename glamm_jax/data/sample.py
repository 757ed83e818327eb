"""What goes into a batch: a picture, preprocessed, and the tokenised rows that speak of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.errors import GLaMMError
from glamm_jax.text.special_tokens import IGNORE_ID, IMAGE_ID


class RowError(GLaMMError):
    """A sample contradicts itself or the model's sizes. Names the sample."""


@dataclass(frozen=True)
class Row:
    """One tokenised conversation: ids, IMAGE_ID for an image, and a label (or IGNORE_ID) each.

    first_box: which of the sample's boxes stands at its first `<bbox>`. The original knows none but
        the first, so there only one conversation of a picture can speak of regions (trap 17).
    """

    token_ids: np.ndarray
    labels: np.ndarray
    first_box: int = 0


@dataclass(frozen=True)
class Sample:
    """One image, preprocessed, with all that is said about it.

    image: uint8[h, w, 3] for CLIP, or float, normalised; None for text alone.
    grounding_image: uint8[s, s, 3] for SAM, padded, or float, normalised; None when nothing is
        segmented. Both kinds of images of a batch have one dtype.
    resized_size, original_size: (height, width) inside SAM's canvas and of the original image.
    boxes_xyxy_unit: float[n, 4], one for each `<bbox>` of a row in turn; None leaves `<bbox>` a
        plain token, and the region encoder does not run on this image.
    masks: uint8[k, h, w] at the original size, one for each [SEG] of the rows in turn; None when
        the truth is not known (inference), and then the losses leave its [SEG]s out.
    """

    rows: tuple[Row, ...]
    image: np.ndarray | None = None
    grounding_image: np.ndarray | None = None
    resized_size: tuple[int, int] = (0, 0)
    original_size: tuple[int, int] = (0, 0)
    boxes_xyxy_unit: np.ndarray | None = None
    masks: np.ndarray | None = None
    name: str = "sample"


def check_sample(sample: Sample, config: GLaMMConfig, dtype: np.dtype | None) -> None:
    """Refuse what a batch could not hold, or would hold wrongly.

    Args:
        dtype: of the batch's images so far; None at the first.

    Raises: RowError naming the sample and what is wrong with it.
    """
    problem = (
        _row_problem(sample, config)
        or _image_problem(sample, config, dtype)
        or _box_problem(sample)
        or _mask_problem(sample)
    )
    if problem:
        raise RowError(f"{sample.name}: {problem}")


def _row_problem(sample: Sample, config: GLaMMConfig) -> str | None:
    vocab = config.llama.vocab_size
    for row in sample.rows:
        ids, labels = np.asarray(row.token_ids), np.asarray(row.labels)
        if ids.shape != labels.shape or ids.ndim != 1:
            return f"ids of shape {ids.shape} with labels of shape {labels.shape}; [n] each"
        if sample.image is None and (ids == IMAGE_ID).any():
            return "a row mentions an image, the sample has none"
        word = ids != IMAGE_ID
        learned = word & (labels != IGNORE_ID)
        for what, values in (("id", ids[word]), ("label", labels[learned])):
            outside = values[(values < 0) | (values >= vocab)]
            if outside.size:
                return f"{what} {int(outside[0])} is outside the vocabulary of {vocab}"
    return None


def _image_problem(sample: Sample, config: GLaMMConfig, dtype: np.dtype | None) -> str | None:
    clip, sam = config.clip.image_size, config.sam.image_size
    for what, image, side in (
        ("image", sample.image, clip),
        ("grounding_image", sample.grounding_image, sam),
    ):
        if image is None:
            continue
        if image.shape != (side, side, 3):
            return f"{what} of shape {image.shape}, but the model takes {(side, side, 3)}"
        dtype = image.dtype if dtype is None else dtype
        if image.dtype != dtype:
            return f"{what} of {image.dtype} in a batch whose images are {dtype}"
    if sample.grounding_image is None:
        return None
    if not all(1 <= size <= sam for size in sample.resized_size):
        return f"resized_size {sample.resized_size} is not inside the canvas of {sam} x {sam}"
    if min(sample.original_size) < 1:
        return f"original_size {sample.original_size} is empty"
    return None


def _box_problem(sample: Sample) -> str | None:
    boxes = sample.boxes_xyxy_unit
    if boxes is None:
        return None
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"boxes of shape {boxes.shape}; four numbers each"
    if len(boxes) and sample.image is None:
        return f"{len(boxes)} boxes without an image to look at"
    return None


def _mask_problem(sample: Sample) -> str | None:
    if sample.masks is None or not len(sample.masks):
        return None
    if sample.grounding_image is None:
        return f"{len(sample.masks)} masks without a grounding_image to predict them from"
    wanted = tuple(sample.original_size)
    for mask in sample.masks:
        if mask.shape != wanted:
            return f"a mask of shape {mask.shape}, but the original size is {wanted}"
    return None
