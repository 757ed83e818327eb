"""Outputs of models decoded to boxes, scores and class numbers.

    raw = decode_boxes(outputs, description, (416, 416))
    raw.boxes.shape, raw.scores.shape, raw.labels.shape     # (n, 4), (n,), (n,)

Boxes are x0 y0 x1 y1 in pixels of the input. Sources: SSD: Liu and others 2016, with the anchors of
TensorFlow's object detection; distribution focal loss: Li and others 2020; queries: Carion and
others 2020.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int, Shaped

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.adapters.onnx_models.description import (
    AnchorDescription,
    ModelDescription,
    OutputDescription,
    OutputName,
)

Outputs = Mapping[OutputName, Shaped[np.ndarray, "..."]]
ROUNDING = 1e-3  # by which a probability may leave 0 to 1


class OutputShapeError(GLaMMError):
    """An output of a model is not what its description says."""


class RawDetections(NamedTuple):
    """Boxes of the input, before they are selected.

    Attributes:
        boxes: x0 y0 x1 y1 in pixels of the input.
        scores: probabilities.
        labels: index of the class's name.
    """

    boxes: Float64[np.ndarray, "n 4"]
    scores: Float64[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]


def decode_boxes(
    outputs: Outputs, description: ModelDescription, size: tuple[int, int]
) -> RawDetections:
    """Return the detections with a sufficient score, the highest first, one of each box.

    Args:
        outputs: of one image, with an axis of length 1 for the batch or without.
        description: of the model.
        size: width and height of the input.

    Raises:
        OutputShapeError: an output has another shape, or a number that is none.
    """
    options = description.output
    decoder = {"boxes": _rows, "detr": _rows, "ssd": _ssd, "dfl": _distribution_focal}
    boxes, scores, labels = decoder[options.decoding](outputs, options, size)
    if labels is None:
        scores = class_scores(scores, options, len(description.classes))
        labels = scores.argmax(1) if len(scores) else np.zeros(0, np.int64)
        scores = scores[np.arange(len(labels)), labels]
    else:
        scores = probabilities(scores, options.activation)
    chosen = np.flatnonzero(scores >= description.min_score)
    # The highest first; equal ones in the order of the model.
    chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
    boxes, scores, labels = boxes[chosen], scores[chosen], labels[chosen]
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(description.classes):
        raise OutputShapeError(
            f"classes {labels.min()} to {labels.max()}, and the description has names for "
            f"{len(description.classes)}"
        )
    if not np.isfinite(boxes).all():
        raise OutputShapeError("a box has numbers that are not finite")
    if description.nms_iou is not None:
        selected = suppress_classes(boxes, labels, description.nms_iou)
        boxes, scores, labels = boxes[selected], scores[selected], labels[selected]
    count = description.max_detections
    return RawDetections(boxes[:count], scores[:count], labels[:count])


def class_scores(
    values: Float64[np.ndarray, "n c"], options: OutputDescription, num_classes: int
) -> Float64[np.ndarray, "n d"]:
    """Return the probability of each class without the background.

    Args:
        values: scores of the model.
        options: activation and background.
        num_classes: number of names.

    Raises:
        OutputShapeError: another number of classes, or no probabilities.
    """
    due = num_classes + (options.background is not None)
    if values.shape[1] != due:
        what = "" if options.background is None else " and one for the background"
        raise OutputShapeError(
            f"{values.shape[1]} scores for each box; the description has {num_classes} names{what}"
        )
    values = probabilities(values, options.activation)
    if options.background is None:
        return values
    if not -1 <= options.background < due:
        raise OutputShapeError(f"background = {options.background}, and there are {due} scores")
    return np.delete(values, options.background, 1)


def probabilities(
    values: Float64[np.ndarray, "..."], activation: str
) -> Float64[np.ndarray, "..."]:
    """Return probabilities; "softmax" is over the last axis.

    Args:
        values: of the model.
        activation: "none", "sigmoid" or "softmax".

    Raises:
        OutputShapeError: a value is not a number, or no probability without activation.
    """
    if not np.isfinite(values).all():
        raise OutputShapeError("a score is not finite")
    if activation == "sigmoid":
        return 1.0 / (1.0 + np.exp(-np.clip(values, -700.0, 700.0)))
    if activation == "softmax":
        return softmax(values)
    if values.size and not -ROUNDING <= values.min() <= values.max() <= 1 + ROUNDING:
        raise OutputShapeError(
            f"scores of {values.min():.4g} to {values.max():.4g} are no probabilities; the "
            "description needs an activation"
        )
    return np.clip(values, 0.0, 1.0)


def softmax(values: Float64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Return the softmax over the last axis."""
    if not values.size:
        return values
    shares = np.exp(values - values.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def suppress_classes(
    boxes: Float64[np.ndarray, "n 4"], labels: Int[np.ndarray, "n"], limit: float
) -> list[int]:
    """Return the boxes that overlap no better one of the same class by more than a limit.

    Args:
        boxes: the best first.
        labels: of the boxes.
        limit: largest intersection over union.
    """
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0.0), 1)
    is_free = np.ones(len(boxes), bool)
    selected: list[int] = []
    for i in range(len(boxes)):
        if not is_free[i]:
            continue
        selected.append(i)
        low, high = np.maximum(boxes[i, :2], boxes[:, :2]), np.minimum(boxes[i, 2:], boxes[:, 2:])
        inter = np.prod(np.maximum(high - low, 0.0), 1)
        union = np.maximum(areas[i] + areas - inter, 1e-9)
        is_free &= ~((inter / union > limit) & (labels == labels[i]))
    return selected


def ssd_anchors(options: AnchorDescription, size: tuple[int, int]) -> Float64[np.ndarray, "n 4"]:
    """Return centre x, centre y, width and height of all anchors, as shares of the input.

    Args:
        options: strides, scales and ratios.
        size: width and height of the input.
    """
    count = len(options.strides)
    step = (options.max_scale - options.min_scale) / max(count - 1, 1)
    scales = [options.min_scale + step * i for i in range(count)] + [1.0]
    maps = []
    for i, stride in enumerate(options.strides):
        if i == 0 and options.reduced_first:
            shapes = [(0.5 * scales[0], 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            shapes = [(scales[i], ratio) for ratio in options.ratios]
            shapes.append((math.sqrt(scales[i] * scales[i + 1]), 1.0))
        columns, rows = (math.ceil(side / stride) for side in size)
        y, x = np.mgrid[:rows, :columns].astype(np.float64)
        centres = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], -1)
        sizes = np.asarray([(s * math.sqrt(r), s / math.sqrt(r)) for s, r in shapes])
        full = (rows, columns, len(shapes), 2)
        pair = np.broadcast_to(centres[:, :, None], full), np.broadcast_to(sizes, full)
        maps.append(np.concatenate(pair, -1).reshape(-1, 4))
    return np.concatenate(maps)


# ------------------------------------------------------------------ decodings

_Decoded = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # boxes, scores, class numbers


def _rows(outputs: Outputs, options: OutputDescription, size: tuple[int, int]) -> _Decoded:
    """Boxes that need no anchors: of queries, of models with suppression inside, of grids."""
    if options.detections is not None:
        boxes, scores, labels = _columns(outputs, options)
    else:
        boxes = table_of(outputs, options.boxes[0], 4)
        labels = None
        if options.labels is None:
            scores = table_of(outputs, options.scores[0], None, rows=len(boxes))
        else:
            scores = vector_of(outputs, options.scores[0], len(boxes))
            labels = vector_of(outputs, options.labels, len(boxes))
    if labels is not None:
        if not np.isfinite(labels).all():
            raise OutputShapeError("a class is not finite")
        labels = np.rint(labels).astype(np.int64) - options.first_class
    boxes = _to_corners(boxes, options.box_format)
    if options.box_units == "unit":
        boxes = boxes * np.asarray([*size, *size], np.float64)
    return boxes, scores, labels


def _columns(outputs: Outputs, options: OutputDescription) -> _Decoded:
    assert options.detections is not None
    columns = options.columns
    has_classes = columns[-1] == "classes"
    table = _array(outputs, options.detections)
    table = table.T if options.transposed and table.ndim == 2 else table
    fits = table.ndim == 2 and (
        table.shape[1] > len(columns) - 1 if has_classes else table.shape[1] == len(columns)
    )
    if not fits:
        raise OutputShapeError(
            f"output {options.detections!r} has the shape {table.shape}, and columns are "
            f"{', '.join(columns)}"
        )
    if has_classes:
        scores, labels = table[:, len(columns) - 1 :], None
    else:
        scores, labels = table[:, columns.index("score")], table[:, columns.index("class")]
    if "objectness" in columns:
        objectness = table[:, columns.index("objectness")]
        scores = scores * (objectness if scores.ndim == 1 else objectness[:, None])
    return table[:, :4], scores, labels


def _ssd(outputs: Outputs, options: OutputDescription, size: tuple[int, int]) -> _Decoded:
    assert options.anchors is not None
    anchors = ssd_anchors(options.anchors, size)
    codes = table_of(outputs, options.boxes[0], 4, rows=len(anchors))
    codes = codes / np.asarray(options.box_scales)
    if options.box_order == "yxhw":
        codes = codes[:, [1, 0, 3, 2]]
    centres = codes[:, :2] * anchors[:, 2:] + anchors[:, :2]
    sizes = np.exp(np.minimum(codes[:, 2:], 10.0)) * anchors[:, 2:]
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)
    scores = table_of(outputs, options.scores[0], None, rows=len(anchors))
    return boxes * np.asarray([*size, *size], np.float64), scores, None


def _distribution_focal(
    outputs: Outputs, options: OutputDescription, size: tuple[int, int]
) -> _Decoded:
    boxes, scores = [], []
    for stride, box_name, score_name in zip(
        options.strides, options.boxes, options.scores, strict=True
    ):
        columns, rows = (math.ceil(side / stride) for side in size)
        codes = table_of(outputs, box_name, None, rows=rows * columns)
        if codes.shape[1] % 4:
            raise OutputShapeError(
                f"output {box_name!r} has {codes.shape[1]} numbers for a box, which are no "
                "distributions of four distances"
            )
        shares = codes.reshape(len(codes), 4, -1)
        if options.distribution == "logits":
            shares = softmax(shares)
        elif not np.allclose(shares.sum(-1), 1.0, atol=0.01):
            raise OutputShapeError(
                f"output {box_name!r}: the distributions do not add up to 1; they may be logits"
            )
        distances = (shares @ np.arange(shares.shape[-1])) * stride
        y, x = np.mgrid[:rows, :columns].reshape(2, -1)
        centres = (np.stack([x, y], 1) + 0.5) * stride
        boxes.append(np.concatenate([centres - distances[:, :2], centres + distances[:, 2:]], 1))
        scores.append(table_of(outputs, score_name, None, rows=rows * columns))
    return np.concatenate(boxes), np.concatenate(scores), None


def _to_corners(boxes: Float64[np.ndarray, "n 4"], box_format: str) -> Float64[np.ndarray, "n 4"]:
    if box_format == "xyxy":
        return boxes
    first, size = boxes[:, :2], boxes[:, 2:]
    if box_format == "cxcywh":
        first = first - size / 2
    return np.concatenate([first, first + size], 1)


def _array(outputs: Outputs, name: OutputName) -> Float64[np.ndarray, "..."]:
    """Return an output without the axis of the batch."""
    array = np.asarray(outputs[name], np.float64)
    return array[0] if array.ndim > 2 and array.shape[0] == 1 else array


def table_of(
    outputs: Outputs, name: OutputName, columns: int | None, rows: int | None = None
) -> Float64[np.ndarray, "n c"]:
    """Return an output as a table.

    Args:
        outputs: of one image.
        name: of the output.
        columns: that it must have; None: any.
        rows: that it must have; None: any.

    Raises:
        OutputShapeError: it has others.
    """
    array = _array(outputs, name)
    while array.ndim > 2 and 1 in array.shape:  # such as [1, n, 1, 4]
        array = array.squeeze(array.shape.index(1))
    fits = array.ndim == 2 and columns in (None, array.shape[-1]) and rows in (None, len(array))
    if not fits:
        due = f"[{'n' if rows is None else rows}, {'c' if columns is None else columns}]"
        raise OutputShapeError(
            f"output {name!r} has the shape {list(np.shape(outputs[name]))}; {due} is due"
        )
    return array


def vector_of(outputs: Outputs, name: OutputName, length: int) -> Float64[np.ndarray, "n"]:
    """Return an output as a vector.

    Args:
        outputs: of one image.
        name: of the output.
        length: that it must have.

    Raises:
        OutputShapeError: it has another.
    """
    array = np.asarray(outputs[name], np.float64)
    if array.size != length or array.ndim > 3:
        raise OutputShapeError(
            f"output {name!r} has the shape {list(array.shape)}; {length} numbers are due"
        )
    return array.reshape(length)
