"""Phrase grounding (paper, appendix B.1): the phrases of a caption in the prompt are segmented.

The answer repeats the caption with a mask after every phrase. The paper shows images without
metrics, and no code is published. mIoU over phrases and recall at an IoU of 0.5 are the usual
metrics.

compat follows the conventions of the original's other evaluations: masks are paired with reference
masks by their order, whatever their phrases; a reference mask without a prediction is not part of
mIoU; two empty masks (0 / 0) are no match. strict: a mask belongs to the reference phrase that has
the words of the phrase before it, and every predicted phrase is used once; a reference mask without
a prediction counts 0; two empty masks agree. The denominator of recall is the number of all
reference masks in both modes.
"""

from __future__ import annotations

from collections.abc import Mapping

from glamm_jax.metrics.gcg import (
    EMPTY_CAPTION,
    IOU_THRESHOLD,
    GroundedCaption,
    ImagePair,
    record_irregularities,
)
from glamm_jax.metrics.iou import pairwise_iou
from glamm_jax.metrics.phrase_matching import match_phrases
from glamm_jax.metrics.result import Irregularities, MetricResult, Mode

RATIOS = {"mIoU": ("IoU_sum", "phrases"), "recall": ("recall_matches", "recall_true")}


def score_grounding(
    predictions: Mapping[str, GroundedCaption],
    references: Mapping[str, GroundedCaption],
    mode: Mode,
) -> MetricResult:
    """Compute mIoU over all phrases and recall at an IoU of 0.5.

    Args:
        predictions: by item id; unknown ids are ignored, a missing one counts as no masks.
        references: by item id.
        mode: compat or strict. In both, masks of different sizes have an IoU of 0.

    Raises:
        MetricError: run lengths are damaged or the fields of a caption are inconsistent; names item
            and mask.
    """
    notes = Irregularities()
    notes.add_id_mismatches(predictions, references)
    per_item: dict[str, dict[str, float]] = {}
    for name, reference in references.items():
        prediction = predictions.get(name, EMPTY_CAPTION)
        image = record_irregularities(name, prediction, reference, notes)
        if not image.reference_runs:
            continue
        matches = _match_by_order(image) if mode == "compat" else _match_by_words(image)
        table = pairwise_iou(
            image.reference_runs,
            image.predicted_runs,
            both_empty=float(mode == "strict"),
            size_mismatch=0.0,
        )
        ious = [float(table[i, k]) for i, k in enumerate(matches) if k is not None]
        per_item[name] = {
            "IoU_sum": sum(ious),
            "phrases": len(ious) if mode == "compat" else len(matches),
            "recall_matches": sum(iou >= IOU_THRESHOLD for iou in ious),
            "recall_true": len(matches),
        }
    scores = {}
    for metric, (numerator, denominator) in RATIOS.items():
        total = sum(columns[denominator] for columns in per_item.values())
        if total or mode == "compat":
            scores[metric] = sum(columns[numerator] for columns in per_item.values()) / (total or 1)
    return MetricResult(scores, per_item, RATIOS, notes.as_dict())


def _match_by_order(image: ImagePair) -> list[int | None]:
    """Return the index of the predicted mask of every reference mask."""
    num_predicted = len(image.predicted_runs)
    return [i if i < num_predicted else None for i in range(len(image.reference_runs))]


def _match_by_words(image: ImagePair) -> list[int | None]:
    """Return the index of the predicted mask of every reference mask: the first of its phrase."""
    predicted, reference = image.predicted, image.reference
    phrases = match_phrases(predicted.phrases, reference.phrases)
    first_mask: dict[int, int] = {}
    for i, phrase in enumerate(predicted.phrase_of):
        first_mask.setdefault(phrase, i)
    matches = [phrases[phrase] if phrase >= 0 else None for phrase in reference.phrase_of]
    return [None if phrase is None else first_mask.get(phrase) for phrase in matches]
