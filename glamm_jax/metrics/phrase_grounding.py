"""Phrase grounding (paper, appendix B.1): a caption is asked, its phrases are to be segmented.

The answer repeats the caption with a mask behind every phrase. The paper shows pictures and no
figures, and no code is published; mIoU over phrases and recall at an IoU of 0.5 are the field's.

compat keeps to the customs of the original's other evaluations: the masks of an answer belong to
the true ones in their order, whatever the answer calls them; a true mask without one is absent from
mIoU; two empty masks (0 / 0) are no find. strict: a mask belongs to the true phrase whose words
stand in front of it, each phrase of the answer to one; a true mask without one counts 0; two empty
masks agree. Recall is over all true masks in both.
"""

from __future__ import annotations

from collections.abc import Mapping

from glamm_jax.metrics.gcg import (
    IOU_THRESHOLD,
    NOTHING,
    GroundedCaption,
    ImagePair,
    record_irregularities,
)
from glamm_jax.metrics.iou import pairwise_iou
from glamm_jax.metrics.phrase_matching import match_phrases
from glamm_jax.metrics.result import Irregularities, MetricResult, Mode

RATIOS = {"mIoU": ("IoU_sum", "phrases"), "recall": ("recall_matches", "recall_true")}


def score_grounding(
    said: Mapping[str, GroundedCaption], true: Mapping[str, GroundedCaption], mode: Mode
) -> MetricResult:
    """mIoU over all phrases and recall at 0.5, of all items of `true`.

    An item without a prediction has no masks; predictions of other items are left out. A mask of
    another size than the true one agrees with nothing.

    Raises: MetricError naming item and mask when run lengths are broken or fields disagree.
    """
    notes = Irregularities()
    notes.add_unknown(said, true)
    each: dict[str, dict[str, float]] = {}
    for name, truth in true.items():
        image = record_irregularities(name, said.get(name, NOTHING), truth, notes)
        if not image.reference_runs:
            continue
        answers = _by_order(image) if mode == "compat" else _by_words(image)
        table = pairwise_iou(
            image.reference_runs,
            image.predicted_runs,
            both_empty=float(mode == "strict"),
            unequal=0.0,
        )
        ious = [float(table[i, k]) for i, k in enumerate(answers) if k is not None]
        each[name] = {
            "IoU_sum": sum(ious),
            "phrases": len(ious) if mode == "compat" else len(answers),
            "recall_matches": sum(iou >= IOU_THRESHOLD for iou in ious),
            "recall_true": len(answers),
        }
    scores = {}
    for figure, (above, below) in RATIOS.items():
        total = sum(columns[below] for columns in each.values())
        if total or mode == "compat":
            scores[figure] = sum(columns[above] for columns in each.values()) / (total or 1)
    return MetricResult(scores, each, RATIOS, notes.as_dict())


def _by_order(image: ImagePair) -> list[int | None]:
    """For each true mask the number of the one said."""
    num_said = len(image.predicted_runs)
    return [i if i < num_said else None for i in range(len(image.reference_runs))]


def _by_words(image: ImagePair) -> list[int | None]:
    """For each true mask the number of the first one behind the phrase with its words."""
    said, true = image.predicted, image.reference
    phrases = match_phrases(said.phrases, true.phrases)
    first: dict[int, int] = {}
    for i, number in enumerate(said.phrase_of):
        first.setdefault(number, i)
    found = [phrases[number] if number >= 0 else None for number in true.phrase_of]
    return [None if number is None else first.get(number) for number in found]
