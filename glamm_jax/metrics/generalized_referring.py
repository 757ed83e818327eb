"""Generalized referring segmentation: an expression may refer to several objects, or to none.

An expression has one reference mask, the union of its objects; None for an expression without
target. A prediction is one mask too; None, or a mask without any pixel, says "no target".

gIoU: mean IoU over all expressions. Without target it is 1 if the prediction says so, else 0. With
a target it is 0 if the prediction says "no target".
cIoU: intersections over unions of all pixels. A false mask adds its pixels to the union.
N_acc: share of the expressions without target that are recognized. T_acc: share of the others that
are not taken for one without.
Pr@0.7, Pr@0.8, Pr@0.9: share of the expressions with a target whose IoU reaches the threshold.

compat counts the expressions that have a prediction, as the evaluator of the benchmark's model
does; without any expression of one kind both accuracies are 0. strict: a missing prediction is
wrong in every metric: its IoU is 0, and it says neither "target" nor "no target".

Source: gres_model/evaluation/refer_evaluation.py of henghuiding/ReLA.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.metrics.refseg import count_pixels
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

RunLengths = Mapping[str, Any]
RATIOS = {"cIoU": ("intersection", "union")}
THRESHOLDS = (0.7, 0.8, 0.9)
N_ACC, T_ACC = "N_acc", "T_acc"


def score_generalized(
    predictions: Mapping[str, RunLengths | None],
    references: Mapping[str, RunLengths | None],
    mode: Mode,
) -> MetricResult:
    """Compute gIoU, cIoU, N_acc, T_acc and the precisions.

    Args:
        predictions: expression -> mask, or None for the answer "no target". Unknown ones are
            ignored. A mask of another size than the reference counts as a wrong mask.
        references: expression -> mask, or None for one without target.
        mode: compat or strict.

    Raises:
        MetricError: run lengths are damaged.
    """
    notes = Irregularities()
    notes.add_id_mismatches(predictions, references)
    per_item: dict[str, dict[str, float]] = {}
    for name, reference in references.items():
        if name not in predictions:
            if mode == "strict":
                per_item[name] = _missing(name, reference)
            continue
        mask = predictions[name]
        try:
            is_empty = mask is None or rle.area(mask) == 0
        except rle.MaskError as error:
            raise MetricError(f"{name}: {error}") from error
        if reference is None:
            union = 0 if is_empty or mask is None else rle.area(mask)
            is_right = float(is_empty)
            per_item[name] = {"gIoU": is_right, "intersection": 0, "union": union, N_ACC: is_right}
            continue
        shared, union = count_pixels(name, (mask, reference, None), notes)
        iou = shared / union if union else 0.0
        per_item[name] = {
            "gIoU": iou,
            "intersection": shared,
            "union": union,
            T_ACC: float(not is_empty),
            **{f"Pr@{threshold}": float(iou >= threshold) for threshold in THRESHOLDS},
        }
    return MetricResult(_scores(per_item, mode), per_item, RATIOS, notes.as_dict())


def _missing(name: str, reference: RunLengths | None) -> dict[str, float]:
    """The columns of an expression without a prediction."""
    if reference is None:
        return {"gIoU": 0.0, "intersection": 0, "union": 0, N_ACC: 0.0}
    try:
        area = rle.area(reference)
    except rle.MaskError as error:
        raise MetricError(f"{name}: {error}") from error
    precisions = {f"Pr@{threshold}": 0.0 for threshold in THRESHOLDS}
    return {"gIoU": 0.0, "intersection": 0, "union": area, T_ACC: 0.0, **precisions}


def _scores(per_item: Mapping[str, Mapping[str, float]], mode: Mode) -> dict[str, float]:
    scores = {}
    for metric in ("gIoU", "cIoU", N_ACC, T_ACC, *(f"Pr@{x}" for x in THRESHOLDS)):
        if metric == "cIoU":
            union = sum(row["union"] for row in per_item.values())
            if union:
                scores[metric] = sum(row["intersection"] for row in per_item.values()) / union
        elif values := [row[metric] for row in per_item.values() if metric in row]:
            scores[metric] = float(np.mean(values))
    if mode == "compat" and per_item and N_ACC not in scores:
        scores |= {N_ACC: 0.0, T_ACC: 0.0}
    return scores
