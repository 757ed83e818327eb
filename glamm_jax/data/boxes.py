"""Boxes of regions: checked, brought to the frame of the model, chosen for training.

Every box is x0, y0, x1, y1. `pixel` boxes count pixels of the original, upright picture; `unit`
boxes are divided by its width and height. The image encoder sees a centre crop of that picture and
nothing corrects for it (trap 12).
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
    """Boxes that mark nothing in the picture. Lists every offender."""


def as_boxes(boxes: Any) -> Float[np.ndarray, "r 4"]:
    """One box, a list of them, or none, as float64 [R, 4].

    Raises: BoxError when they are not quadruples of numbers.
    """
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise BoxError("boxes are x0, y0, x1, y1 in pixels: four numbers each") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.shape[-1:] != (4,) or array.ndim > 2:
        raise BoxError(f"boxes are x0, y0, x1, y1 in pixels, not an array of shape {array.shape}")
    return array.reshape(-1, 4)


def overlaps_image(
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"], height: int, width: int
) -> Bool[np.ndarray, "r"]:
    """Whether any of a box lies inside the picture. Datasets drop the others (trap 12)."""
    x0, y0, x1, y1 = boxes_xyxy_pixel.T
    across = np.minimum(x1, width) - np.maximum(x0, 0)
    down = np.minimum(y1, height) - np.maximum(y0, 0)
    return (across > 0) & (down > 0)


def check_boxes(boxes: Any, height: int, width: int) -> Float[np.ndarray, "r 4"]:
    """Boxes in pixels of a picture of this size, or one error about all that are wrong.

    A box that reaches beyond the picture is kept as it is (trap 12); one wholly outside, without
    area, with its corners swapped, or with a number that is not finite is refused.

    Raises: BoxError listing every offending box with its number and the reason.
    """
    array = as_boxes(boxes)
    inside = overlaps_image(array, height, width)
    problems = []
    for i, box in enumerate(array):
        problem = _problem(box, bool(inside[i]), height, width)
        if problem:
            problems.append(f"box {i} {tuple(box.tolist())} {problem}")
    if problems:
        raise BoxError("; ".join(problems))
    return array


def _problem(box: Float[np.ndarray, "4"], inside: bool, height: int, width: int) -> str | None:
    x0, y0, x1, y1 = box
    if not np.isfinite(box).all():
        return "has a coordinate that is not a finite number"
    if x1 < x0 or y1 < y0:
        return "is inverted: give the top left corner first, x0, y0, x1, y1"
    if x1 == x0 or y1 == y0:
        return "has no area"
    if not inside:
        return f"lies outside the picture of {width} x {height} pixels (width x height)"
    return None


def to_unit(
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"], height: int, width: int
) -> Float[np.ndarray, "r 4"]:
    """Divide by the ORIGINAL size, float32 (trap 12). Values above 1 reach beyond the picture.

    Source: eval/region_captioning/infer.py:75. Differs: the original goes through CLIP's size and
    back, which rounds differently by 1e-7.
    """
    scale = np.array([width, height, width, height], np.float64)
    return (boxes_xyxy_pixel.astype(np.float64) / scale).astype(np.float32)


def to_pixel(
    boxes_xyxy_unit: Float[np.ndarray, "r 4"], height: int, width: int
) -> Float[np.ndarray, "r 4"]:
    """float64 boxes in pixels of a picture of this size: `to_unit` turned around."""
    return boxes_xyxy_unit.astype(np.float64) * np.array([width, height, width, height])


def round_like_original(boxes_xyxy_unit: Float[np.ndarray, "r 4"]) -> np.ndarray:
    """bfloat16[R, 4] by way of float16, as the original's evaluation passes boxes (trap 13)."""
    return boxes_xyxy_unit.astype(np.float16).astype(ml_dtypes.bfloat16)


def to_grounding_frame(
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"], height: int, width: int, longest: int
) -> Float[np.ndarray, "r 4"]:
    """float64 boxes in pixels of the resized picture: what SAM takes as box prompts.

    Source: model/SAM/utils/transforms.py:52.
    """
    resized_height, resized_width = grounding_size(height, width, longest)
    across, down = resized_width / width, resized_height / height
    return boxes_xyxy_pixel.astype(np.float64) * np.array([across, down, across, down])


def select_regions(
    boxes: Float[np.ndarray, "r 4"],
    labels: Sequence[Label],
    order: Int[np.ndarray, "n"],
    max_regions: int = 10,
    limit_boxes: bool = True,
) -> tuple[Float[np.ndarray, "k 4"], list[Label]]:
    """The first `max_regions` boxes and labels in a shuffled order.

    limit_boxes: False keeps all boxes in their shuffled order and limits the labels alone, as the
    Flickr class does (trap 42).

    Source: dataset/region_datasets/RefCOCO_VG_Region_ds.py:117.
    """
    chosen = order[:max_regions]
    return boxes[chosen if limit_boxes else order], [labels[int(i)] for i in chosen]
