"""Overlap of boxes, in the two conventions of the released code, and suppression of duplicates.

    plain_iou((0, 0, 10, 10), (0, 0, 10, 5))        # 0.5
    inclusive_iou((0, 0, 9, 9), (0, 0, 9, 4))       # 0.5: corners are the outermost pixels

All numbers are Python floats: thresholds are compared in float64, as in the original.

Source: GranD/utils/merge_json_level_1_with_nms.py, utils/prepare_level_1.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from glamm_jax.grand.options import MergeOptions
from glamm_jax.grand.record import Box, Detection

MIN_UNION = 1e-5  # of two empty boxes


def plain_iou(a: Box, b: Box) -> float:
    """Return intersection over union of two boxes with real corners."""
    x0, y0, x1, y1 = a
    u0, v0, u1, v1 = b
    width = (x1 if x1 < u1 else u1) - (x0 if x0 > u0 else u0)
    height = (y1 if y1 < v1 else v1) - (y0 if y0 > v0 else v0)
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    union = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - inter
    return inter / max(union, MIN_UNION)


def inclusive_iou(a: Box, b: Box) -> float:
    """Return intersection over union of two boxes whose corners are pixels that belong to them."""
    width = min(a[2], b[2]) - max(a[0], b[0]) + 1
    height = min(a[3], b[3]) - max(a[1], b[1]) + 1
    if width <= 0 or height <= 0:
        return 0.0
    inter = width * height
    area = (a[2] - a[0] + 1) * (a[3] - a[1] + 1)
    union = area + (b[2] - b[0] + 1) * (b[3] - b[1] + 1) - inter
    return inter / union if union else 0.0


def best_iou(box: Box, others: Iterable[Box]) -> tuple[int, float]:
    """Return index and `inclusive_iou` of the first of the boxes that overlap most; -1 for none.

    Args:
        box: to compare with.
        others: the candidates.
    """
    x0, y0, x1, y1 = box
    area = (x1 - x0 + 1) * (y1 - y0 + 1)
    best, best_index = -1.0, -1
    for index, (u0, v0, u1, v1) in enumerate(others):
        width = (x1 if x1 < u1 else u1) - (x0 if x0 > u0 else u0) + 1
        height = (y1 if y1 < v1 else v1) - (y0 if y0 > v0 else v0) + 1
        iou = 0.0
        if width > 0 and height > 0:
            inter = width * height
            union = area + (u1 - u0 + 1) * (v1 - v0 + 1) - inter
            iou = inter / union if union else 0.0
        if iou > best:
            best, best_index = iou, index
    return best_index, best


def box_area(box: Box) -> float:
    """Return the area of a box with real corners; negative if one side is inverted."""
    return (box[2] - box[0]) * (box[3] - box[1])


def suppress(detections: Sequence[Detection], options: MergeOptions) -> list[Detection]:
    """Drop detections with low scores and duplicates of better ones, whatever their labels.

    Args:
        detections: of one model.
        options: limits of scores and of overlap.

    Returns:
        The others, the highest score first, equal scores in the order in which they were.
    """
    ordered = [d for d in detections if d.score >= options.min_score]
    ordered.sort(key=lambda detection: -detection.score)
    limit = options.nms_iou
    selected: list[Detection] = []
    boxes: list[Box] = []
    for detection in ordered:
        box = detection.box
        x0, y0, x1, y1 = box
        for other in boxes:
            # Most pairs are disjoint, which is seen before the areas are computed.
            disjoint = x0 >= other[2] or other[0] >= x1 or y0 >= other[3] or other[1] >= y1
            if not disjoint and plain_iou(box, other) > limit:
                break
        else:
            selected.append(detection)
            boxes.append(box)
    return selected


def boxes_of_queries(
    queries: Sequence[Sequence[float]], width: int, height: int
) -> list[tuple[float, Box]]:
    """Convert a detection transformer's queries to scores and boxes in pixels.

    Args:
        queries: probability of an object, then centre, width and height as shares of the image.
        width: of the image.
        height: of the image.

    Returns:
        For each query its score and its box in float32, rounded to two decimals, not clipped.
    """
    if not len(queries):
        return []
    array = np.asarray(queries, np.float32)
    centre, half = array[:, 1:3], np.float32(0.5) * array[:, 3:5]
    size = np.asarray([width, height] * 2, np.float32)
    corners = (np.concatenate([centre - half, centre + half], 1) * size).tolist()
    return [
        (query[0], (round(x0, 2), round(y0, 2), round(x1, 2), round(y1, 2)))
        for query, (x0, y0, x1, y1) in zip(queries, corners, strict=True)
    ]
