"""Hallucination of masks, measured on pairs of images that differ in one object.

In the edited image of a pair the object of the original one is replaced by another. A model is
questioned about both objects in both images: four settings, two of which name an object that the
image does not have.

    orgl_orgi    the original object in the original image
    edtl_orgi    the other object in the original image: it is not there
    orgl_edti    the original object in the edited image: it is not there any more
    edtl_edti    the other object in the edited image

IoU_factual, IoU_textual, IoU_visual: mean IoU of orgl_orgi, edtl_orgi, orgl_edti with the mask of
the object that is there. dIoU_textual, dIoU_visual: mean of IoU_factual minus the other, pair by
pair; the larger, the better. CMS_factual, CMS_counterfactual: confusion mask score of edtl_orgi
and orgl_edti, the lower, the better: (3 |mask and object| + |mask outside of the object|) /
(3 |object|). CCMS: mean of CMS_factual / CMS_counterfactual over the pairs in which the latter is
not 0.

compat, as the benchmark's programs: masks are resized to the reference mask by the nearest pixel,
those of the IoUs to that of the original image; confusion scores are rounded to four decimals
before they are averaged; a setting without a prediction is left out. strict: scores are not
rounded, a missing prediction has the IoU 0 in IoU_factual and IoU_edited and is left out elsewhere,
as no answer at all must not count as a correct one; and there is IoU_edited, the mean IoU of
edtl_edti, which the programs do not compute.

Source: get_consistency.py, get_hallucination.py of PLAN-Lab/HalluSegBench.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import rle
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode

RunLengths = Mapping[str, Any]
FACTUAL, TEXTUAL, VISUAL, EDITED = SETTINGS = ("orgl_orgi", "edtl_orgi", "orgl_edti", "edtl_edti")
OVERLAP_WEIGHT = 3  # of the pixels on the object, in the confusion mask score
METRICS = (
    *("IoU_factual", "IoU_textual", "IoU_visual", "IoU_edited", "dIoU_textual", "dIoU_visual"),
    *("CMS_factual", "CMS_counterfactual", "CCMS"),
)
Pixels = Bool[np.ndarray, "_ _"]  # masks of a pair may have different sizes


class CounterfactualPair(NamedTuple):
    """A pair of images.

    Attributes:
        factual_mask: of the object in the original image.
        counterfactual_mask: of the object that replaces it in the edited image.
        items: setting -> id of the item that asks for it.
    """

    factual_mask: RunLengths
    counterfactual_mask: RunLengths
    items: Mapping[str, str]


def score_pairs(
    predictions: Mapping[str, RunLengths | None],
    pairs: Mapping[str, CounterfactualPair],
    mode: Mode,
) -> MetricResult:
    """Compute the IoUs, their differences and the confusion mask scores.

    Args:
        predictions: item -> mask, or None for an answer without one, which is an empty mask.
            Unknown ones are ignored.
        pairs: by their names.
        mode: compat or strict.

    Returns:
        The values of a pair are those of the items that they are about: differences, and the ratio
        CCMS, belong to the item whose image does not have the object.

    Raises:
        MetricError: run lengths are damaged.
    """
    notes = Irregularities()
    all_items = [item for pair in pairs.values() for item in pair.items.values()]
    notes.add_id_mismatches(predictions, dict.fromkeys(all_items))
    per_item: dict[str, dict[str, float]] = {}
    for name, pair in pairs.items():
        try:
            factual, counterfactual = map(rle.decode, pair[:2])
            masks = {
                setting: _decode(predictions[item], factual.shape)
                for setting, item in pair.items.items()
                if item in predictions
            }
        except rle.MaskError as error:
            raise MetricError(f"{name}: {error}") from error
        notes.add_if(not factual.any() or not counterfactual.any(), "no reference mask", name)
        values = _score_pair(masks, factual, counterfactual, mode)
        for setting, columns in values.items():
            if setting in pair.items:
                per_item.setdefault(pair.items[setting], {}).update(columns)
    scores = {}
    for metric in METRICS:
        if values := [row[metric] for row in per_item.values() if metric in row]:
            scores[metric] = float(np.mean(values))
    return MetricResult(scores, per_item, notes=notes.as_dict())


def _score_pair(
    masks: Mapping[str, Pixels], factual: Pixels, counterfactual: Pixels, mode: Mode
) -> dict[str, dict[str, float]]:
    """Return setting -> metric -> value.

    Args:
        masks: predicted, by setting.
        factual: reference of the original image.
        counterfactual: reference of the edited image.
        mode: of counting.
    """
    rows: dict[str, dict[str, float]] = {setting: {} for setting in SETTINGS}
    ious: dict[str, float] = {}
    size = factual.shape
    for setting, metric, reference in (
        (FACTUAL, "IoU_factual", factual),
        (TEXTUAL, "IoU_textual", factual),
        (VISUAL, "IoU_visual", counterfactual),
        (EDITED, "IoU_edited", counterfactual),
    ):
        if setting == EDITED and mode == "compat":
            continue
        if setting in masks:
            ious[setting] = rows[setting][metric] = _iou(
                _resize(masks[setting], size), _resize(reference, size)
            )
        elif mode == "strict" and setting in (FACTUAL, EDITED):
            rows[setting][metric] = 0.0
    confusion: dict[str, float] = {}
    for setting, suffix, reference in (
        (TEXTUAL, "textual", factual),
        (VISUAL, "visual", counterfactual),
    ):
        if setting in masks:
            score = _confusion(_resize(masks[setting], reference.shape), reference)
            confusion[setting] = round(score, 4) if mode == "compat" else score
            metric = "CMS_factual" if setting == TEXTUAL else "CMS_counterfactual"
            rows[setting][metric] = confusion[setting]
            if FACTUAL in ious:
                rows[setting][f"dIoU_{suffix}"] = ious[FACTUAL] - ious[setting]
    if len(confusion) == 2 and confusion[VISUAL] != 0:
        rows[VISUAL]["CCMS"] = confusion[TEXTUAL] / confusion[VISUAL]
    return rows


def _iou(mask: Pixels, reference: Pixels) -> float:
    union = int((mask | reference).sum())
    return int((mask & reference).sum()) / union if union else 0.0


def _confusion(mask: Pixels, reference: Pixels) -> float:
    """Return the confusion mask score of a mask; 0 if the reference is empty."""
    overlap, outside = int((mask & reference).sum()), int((mask & ~reference).sum())
    area = OVERLAP_WEIGHT * int(reference.sum())
    return (OVERLAP_WEIGHT * overlap + outside) / area if area else 0.0


def _decode(mask: RunLengths | None, size: tuple[int, ...]) -> Pixels:
    return np.zeros(size, bool) if mask is None else rle.decode(mask)


def _resize(mask: Pixels, size: tuple[int, ...]) -> Pixels:
    """Resize a mask by the nearest pixel, as OpenCV's INTER_NEAREST does."""
    if mask.shape == size or not mask.size:
        return mask if mask.shape == size else np.zeros(size, bool)
    rows, columns = (
        np.minimum(np.arange(new) * old // new, old - 1)
        for old, new in zip(mask.shape, size, strict=True)
    )
    return mask[np.ix_(rows, columns)]
