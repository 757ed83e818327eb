"""Boxes of regions: validation, conversion between frames, selection for training.

Every box is x0, y0, x1, y1. `pixel` boxes are in pixels of the original, upright image; `unit`
boxes are divided by its width and height. The image encoder sees a centre crop of that image;
nothing corrects the boxes for it (quirk 12).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
from jaxtyping import Bool, Float, Int

from glamm_jax.data.preprocess import grounding_size
from glamm_jax.errors import GLaMMError

Label = TypeVar("Label")


class BoxError(GLaMMError):
    """Boxes are malformed or outside of the image. Lists all of them."""


def as_boxes(boxes: Any) -> Float[np.ndarray, "r 4"]:
    """Return one box, a list of boxes, or an empty list as float64 [R, 4].

    Raises:
        BoxError: they are not four numbers each.
    """
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise BoxError("boxes must be x0, y0, x1, y1 in pixels: four numbers each") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.shape[-1:] != (4,) or array.ndim > 2:
        raise BoxError(
            f"boxes must be x0, y0, x1, y1 in pixels, not an array of shape {array.shape}"
        )
    return array.reshape(-1, 4)


def overlaps_image(
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"], height: int, width: int
) -> Bool[np.ndarray, "r"]:
    """Return whether each box overlaps an image of this size.

    Datasets drop the other boxes (quirk 12: boxes that reach beyond the image are kept).

    Args:
        boxes_xyxy_pixel: boxes.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    x0, y0, x1, y1 = boxes_xyxy_pixel.T
    inner_width = np.minimum(x1, width) - np.maximum(x0, 0)
    inner_height = np.minimum(y1, height) - np.maximum(y0, 0)
    return (inner_width > 0) & (inner_height > 0)


def check_boxes(boxes: Any, height: int, width: int) -> Float[np.ndarray, "r 4"]:
    """Return boxes as float64 [R, 4] if all of them are valid in an image of this size.

    A box that reaches beyond the image is kept as it is (quirk 12: so does the original). A box is
    invalid if it is completely outside, has no area, swapped corners or a number that is not
    finite.

    Args:
        boxes: x0, y0, x1, y1 in pixels; one box, a list of boxes, or an empty list.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Raises:
        BoxError: boxes are invalid; lists all of them with their index and the reason.
    """
    array = as_boxes(boxes)
    overlaps = overlaps_image(array, height, width)
    problems = []
    for i, box in enumerate(array):
        x0, y0, x1, y1 = box
        problem = None
        if not np.isfinite(box).all():
            problem = "has a coordinate that is not a finite number"
        elif x1 < x0 or y1 < y0:
            problem = "is inverted: give the top left corner first, x0, y0, x1, y1"
        elif x1 == x0 or y1 == y0:
            problem = "has no area"
        elif not overlaps[i]:
            problem = f"is outside of the image of {width} x {height} pixels (width x height)"
        if problem:
            problems.append(f"box {i} {tuple(box.tolist())} {problem}")
    if problems:
        raise BoxError("; ".join(problems))
    return array


def to_unit(
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"], height: int, width: int
) -> Float[np.ndarray, "r 4"]:
    """Return boxes divided by the size of the original image, as float32.

    Values below 0 or above 1 are beyond the image. CLIP sees a centre crop, but the boxes are
    divided by the uncropped size (quirk 12).

    Args:
        boxes_xyxy_pixel: boxes.
        height: of the image, in pixels.
        width: of the image, in pixels.

    Source: eval/region_captioning/infer.py:75. Differs: the original converts to CLIP's size and
    back, which rounds differently by 1e-7.
    """
    scale = np.array([width, height, width, height], np.float64)
    return (boxes_xyxy_pixel.astype(np.float64) / scale).astype(np.float32)


def to_pixel(
    boxes_xyxy_unit: Float[np.ndarray, "r 4"], height: int, width: int
) -> Float[np.ndarray, "r 4"]:
    """Return boxes multiplied by the size of the image, as float64; the inverse of `to_unit`.

    Args:
        boxes_xyxy_unit: boxes.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    return boxes_xyxy_unit.astype(np.float64) * np.array([width, height, width, height])


def round_like_original(boxes_xyxy_unit: Float[np.ndarray, "r 4"]) -> np.ndarray:
    """Return boxes rounded to float16, then to bfloat16 [R, 4].

    The evaluation of the original passes boxes through these types (quirk 13).
    """
    return boxes_xyxy_unit.astype(np.float16).astype(ml_dtypes.bfloat16)


def to_grounding_frame(
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"], height: int, width: int, longest: int
) -> Float[np.ndarray, "r 4"]:
    """Return float64 boxes in pixels of the resized image, as box prompts of SAM.

    Args:
        boxes_xyxy_pixel: boxes.
        height: of the original image, in pixels.
        width: of the original image, in pixels.
        longest: the longer side of the resized image, in pixels.

    Source: model/SAM/utils/transforms.py:52.
    """
    resized_height, resized_width = grounding_size(height, width, longest)
    scale_x, scale_y = resized_width / width, resized_height / height
    return boxes_xyxy_pixel.astype(np.float64) * np.array([scale_x, scale_y, scale_x, scale_y])


def select_regions(
    boxes: Float[np.ndarray, "r 4"],
    labels: Sequence[Label],
    order: Int[np.ndarray, "n"],
    max_regions: int = 10,
    limit_boxes: bool = True,
) -> tuple[Float[np.ndarray, "k 4"], list[Label]]:
    """Return the first `max_regions` boxes and labels in a shuffled order.

    Args:
        boxes: of all regions.
        labels: of all regions.
        order: a permutation of the regions.
        max_regions: how many to return.
        limit_boxes: False returns all boxes in the shuffled order and limits only the labels, as
            the Flickr class of the original does (quirk 42).

    Source: dataset/region_datasets/RefCOCO_VG_Region_ds.py:117.
    """
    selected = order[:max_regions]
    return boxes[selected if limit_boxes else order], [labels[int(i)] for i in selected]
