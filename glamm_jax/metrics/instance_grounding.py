"""Grounding of one description at a time, by group: mean IoU of masks, accuracy of boxes.

gIoU: mean IoU of the masks, which is 0 where both are empty. box_accuracy: share of the predicted
boxes whose IoU with the annotated box is at least 0.5. The box of a mask is the smallest box around
its pixels. Both also for each group: "gIoU, part".

compat, as the benchmark's program: a description without a predicted mask is left out of gIoU. One
without a prediction is left out of box_accuracy over all groups, but not out of that of its group;
one without a box counts as wrong in both. strict: all of them count 0.

Source: evaluate_grounding.py of hustvl/GroundingSuite.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from glamm_jax.data import rle
from glamm_jax.metrics.refseg import count_pixels
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

RunLengths = Mapping[str, Any]
Box = tuple[float, float, float, float]
BOX_THRESHOLD = 0.5
GIOU, BOX_ACCURACY = "gIoU", "box_accuracy"


class InstanceReference(NamedTuple):
    """What a description refers to.

    Attributes:
        mask: of all pixels that it refers to.
        box: x0 y0 x1 y1 in pixels, as annotated.
        group: that the metrics are also computed for.
    """

    mask: RunLengths
    box: Box
    group: str


def score_instances(
    predictions: Mapping[str, RunLengths | None],
    references: Mapping[str, InstanceReference],
    mode: Mode,
) -> MetricResult:
    """Compute gIoU and box_accuracy, over all descriptions and for each group.

    Args:
        predictions: description -> mask, or None for an answer without one. Unknown ones are
            ignored. A mask of another size than the reference has the IoU 0.
        references: by description.
        mode: compat or strict.

    Raises:
        MetricError: run lengths are damaged.
    """
    notes = Irregularities()
    notes.add_id_mismatches(predictions, references)
    per_item: dict[str, dict[str, float]] = {}
    for name, reference in references.items():
        row = per_item[name] = {}
        mask = predictions.get(name)
        notes.add_if(name in predictions and mask is None, "no mask given", name)
        if mask is not None or mode == "strict":
            shared, union = count_pixels(name, (mask, reference.mask, None), notes)
            row[GIOU] = row[f"{GIOU}, {reference.group}"] = shared / union if union else 0.0
        is_right = mask is not None and _box_iou(name, mask, reference.box) >= BOX_THRESHOLD
        row[f"{BOX_ACCURACY}, {reference.group}"] = float(is_right)
        if name in predictions or mode == "strict":
            row[BOX_ACCURACY] = float(is_right)
    groups = sorted({reference.group for reference in references.values()})
    scores = {}
    for base in (GIOU, BOX_ACCURACY):
        for metric in (base, *(f"{base}, {group}" for group in groups)):
            if values := [row[metric] for row in per_item.values() if metric in row]:
                scores[metric] = float(np.mean(values))
    return MetricResult(scores, per_item, notes=notes.as_dict())


def _box_iou(name: str, mask: RunLengths, box: Box) -> float:
    """Return the IoU of the box of a mask and an annotated box; 0 for an empty mask."""
    try:
        own = rle.box(mask)
    except rle.MaskError as error:
        raise MetricError(f"{name}: {error}") from error
    if own is None:
        return 0.0
    sides = [min(own[i + 2], box[i + 2]) - max(own[i], box[i]) for i in (0, 1)]
    shared = sides[0] * sides[1] if min(sides) > 0 else 0.0
    areas = [(x[2] - x[0]) * (x[3] - x[1]) for x in (own, box)]
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0
