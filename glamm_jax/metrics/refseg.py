"""Referring segmentation: cIoU, intersections over unions of all pixels, and gIoU, the mean IoU.

compat, as the original computes them:

- An item is a conversation. Its masks are paired with the reference masks by their order. Reference
  masks without a prediction count 0 in gIoU and are not part of cIoU; surplus predictions are
  ignored.
- IoU is intersection / (union + 1e-5), and 1 if both masks are empty; gIoU divides by the number of
  reference masks + 1e-5. So a perfect answer scores slightly less than 1.
- float32: IoUs are added in float32, conversation by conversation; sums of pixels, which are
  integers, are rounded to float32 once.

strict: every reference mask counts in both metrics. One without a prediction counts as predicted
empty: its pixels are part of the denominator of cIoU, and its IoU is 1 only if it is empty itself.
IoU and mean are exact, in float64.

Ignored pixels (255 in the original's targets) count in neither mode. Where polygons of one object
overlap, the original's targets are 2, which it treats as background: references that reproduce its
numbers exclude such pixels.

Source: eval/referring_seg/infer_and_evaluate.py, tools/utils.py of the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glamm_jax.metrics.iou import intersection_area, read_runs, subtract
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

RATIOS = {"cIoU": ("intersection", "union"), "gIoU": ("IoU_sum", "masks")}
RunLengths = Mapping[str, Any]
F = np.float32


def score_refseg(
    predictions: Mapping[str, Sequence[RunLengths | None]],
    references: Mapping[str, Sequence[RunLengths]],
    mode: Mode,
    ignored: Mapping[str, Sequence[RunLengths]] | None = None,
) -> MetricResult:
    """Compute cIoU and gIoU.

    Args:
        predictions: for each item its masks in the order of the expressions; None: no mask. Unknown
            items are ignored; a missing one has no masks. A mask of another size than its reference
            counts as None: as an empty mask, which keeps its position.
        references: for each item the mask of each expression.
        mode: compat or strict.
        ignored: for each item, or for some, the ignored pixels of each reference mask.

    Raises:
        MetricError: run lengths are damaged, or `ignored` has another number of masks than
            `references`; names item and mask.
    """
    notes = Irregularities()
    notes.add_id_mismatches(predictions, references)
    per_item = {}
    for name, reference_masks in references.items():
        masks, num_masks = predictions.get(name, ()), len(reference_masks)
        ignored_masks = (ignored or {}).get(name) or [None] * num_masks
        if len(ignored_masks) != num_masks:
            raise MetricError(
                f"{name}: {num_masks} reference masks but {len(ignored_masks)} masks of ignored "
                "pixels"
            )
        notes.add_if(not num_masks, "no reference mask", name)
        notes.add_if(len(masks) > num_masks, "more masks than expressions", name)
        notes.add_if(len(masks) < num_masks, "fewer masks than expressions", name)
        notes.add_if(any(mask is None for mask in masks), "no mask given", name)
        padded = [*masks[:num_masks], *[None] * (num_masks - len(masks))]
        counts = [
            count_pixels(name, triple, notes)
            for triple in zip(padded, reference_masks, ignored_masks, strict=True)
        ]
        if not num_masks:
            continue
        # quirk 48: in the original, reference masks without a prediction count 0 in gIoU and are
        # absent from cIoU.
        if mode == "compat":
            counts = counts[: len(masks)]
            iou_sum = _compat_iou_sum(counts, num_masks)
        else:
            iou_sum = sum(shared / union if union else 1.0 for shared, union in counts)
        per_item[name] = {
            "intersection": sum(shared for shared, _ in counts),
            "union": sum(union for _, union in counts),
            "IoU_sum": iou_sum,
            "masks": num_masks,
        }
    scores = _scores(list(per_item.values()), mode)
    return MetricResult(scores, per_item, RATIOS, notes.as_dict())


def count_pixels(
    name: str, masks: tuple[RunLengths | None, RunLengths, RunLengths | None], notes: Irregularities
) -> tuple[int, int]:
    """Return intersection and union of a predicted and a reference mask, without ignored pixels.

    Args:
        name: of the item.
        masks: predicted, reference and ignored pixels. A predicted mask of another size than the
            reference counts as None, as an empty mask.
        notes: a mask of another size is added to them.

    Raises:
        MetricError: run lengths are damaged.
    """
    try:
        reference = read_runs(masks[1])
        predicted, ignored = (None if mask is None else read_runs(mask) for mask in masks[::2])
        if predicted is not None and predicted.size != reference.size:
            notes.add("sizes disagree", (name,))
            predicted = None
        if ignored is not None:
            reference = subtract(reference, ignored)
            predicted = None if predicted is None else subtract(predicted, ignored)
    except ValueError as error:
        raise MetricError(f"{name}: {error}") from error
    if predicted is None:
        return 0, reference.area
    intersection = intersection_area(predicted, reference)
    return intersection, predicted.area + reference.area - intersection


def _compat_iou_sum(counts: Sequence[tuple[int, int]], num_masks: int) -> float:
    total = F(0)
    for intersection, union in counts:
        total += F(intersection) / (F(union) + F(1e-5)) + F(union == 0)
    return float(total / F(num_masks) * F(num_masks))


def _scores(per_item: Sequence[Mapping[str, float]], mode: Mode) -> dict[str, float]:
    intersection, union, num_masks = (
        sum(columns[name] for columns in per_item) for name in ("intersection", "union", "masks")
    )
    if mode == "compat":
        total = F(0)
        for columns in per_item:
            total += F(columns["IoU_sum"])
        return {
            "cIoU": float(F(intersection) / (F(union) + F(1e-10))),
            "gIoU": float(total / F(num_masks + 1e-5)),
        }
    if not num_masks:
        return {}
    # If all masks are empty, predictions and references agree.
    total = sum(columns["IoU_sum"] for columns in per_item)
    return {"cIoU": intersection / union if union else 1.0, "gIoU": total / num_masks}
