"""Grounded conversation generation: AP, mIoU and mask recall of captions with masks.

| metric | compat: the original's code | strict: the definition |
|---|---|---|
| AP, AP50, AP75 | every mask has score 1, so ties are ranked by image id and order of the masks | \
ranked by their scores; equal scores are one point of the curve |
| mIoU | greedy pairs of masks, largest IoU first; unpaired masks cost nothing; two empty masks \
(0 / 0) end an image's pairing; an image without pairs is 0 | the pairing with the largest sum, \
over all reference masks: an unpaired one counts 0; two empty masks agree |
| recall | the pair with the largest IoU first; the first that fails a threshold ends the image, \
whatever pairs follow; masks and phrases are paired by their indices | the largest number of \
reference masks that can be matched at once, each by a mask of its own; masks belong to the \
phrases before them |

The denominators of recall are the reference phrases (compat) and the reference masks (strict:
paper, appendix A.1). The mIoU of compat is a mean over all images, that of strict over the images
with reference masks. docs/metrics.md shows the effect of each difference.

Source: eval/gcg/evaluate.py of the original.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from glamm_jax.data.rle import MaskError
from glamm_jax.metrics.average_precision import ImageMasks, coco_stats, ranked_precision
from glamm_jax.metrics.iou import MaskRuns, pairwise_iou, read_runs
from glamm_jax.metrics.result import Irregularities, MetricError, MetricResult, Mode
from glamm_jax.metrics.similarity import Similarity

IOU_THRESHOLD = TEXT_THRESHOLD = 0.5
RATIOS = {"recall": ("recall_matches", "recall_true")}
RunLengths = Mapping[str, Any]
Scores = dict[str, float]


class GroundedCaption(NamedTuple):
    """A caption with its phrases and masks; a prediction or a reference.

    Attributes:
        caption: the text.
        phrases: its phrases.
        masks: run lengths of its masks.
        phrase_of: for each mask the index of its phrase, -1: no phrase.
        scores: confidence of each mask; empty: unknown.
    """

    caption: str
    phrases: tuple[str, ...]
    masks: tuple[RunLengths, ...]
    phrase_of: tuple[int, ...]
    scores: tuple[float, ...] = ()


EMPTY_CAPTION = GroundedCaption("", (), (), ())


def phrase_indices_by_order(num_phrases: int, num_masks: int) -> tuple[int, ...]:
    """Return `phrase_of` of masks that are paired with phrases by order, as in the original."""
    return tuple(i if i < num_phrases else -1 for i in range(num_masks))


class ImagePair(NamedTuple):
    """Prediction and reference of an image, with their checked masks.

    Attributes:
        name: id of the image.
        predicted: the predicted caption.
        reference: the reference caption.
        predicted_runs: masks of the prediction.
        reference_runs: masks of the reference.
    """

    name: str
    predicted: GroundedCaption
    reference: GroundedCaption
    predicted_runs: list[MaskRuns]
    reference_runs: list[MaskRuns]

    @property
    def same_size(self) -> bool:
        """Whether all masks have the same size."""
        return len({mask.size for mask in (*self.predicted_runs, *self.reference_runs)}) <= 1


def score_gcg(
    predictions: Mapping[str, GroundedCaption],
    references: Mapping[str, GroundedCaption],
    similarity: Similarity,
    mode: Mode,
) -> MetricResult:
    """Compute AP, mIoU and recall; `score_captions` computes the caption metrics.

    Args:
        predictions: by image id. Unknown ids are ignored; a missing one counts as a caption without
            phrases and masks (the original stops there).
        references: by image id.
        similarity: of phrases, for recall.
        mode: compat or strict. In both, masks of different sizes have an IoU of 0; in compat they
            also end the recall of the image, as the original's exception does, while the mIoU,
            for which the original stops, takes that mask as 0.

    Raises:
        MetricError: run lengths are damaged or the fields of a caption are inconsistent; names
            image and mask.
    """
    notes = Irregularities()
    notes.add_id_mismatches(predictions, references)
    images = [
        record_irregularities(name, predictions.get(name, EMPTY_CAPTION), reference, notes)
        for name, reference in references.items()
    ]
    scores, per_item = (_compat if mode == "compat" else _strict)(images, similarity)
    return MetricResult(scores, per_item, RATIOS, notes.as_dict())


def read_pair(name: str, prediction: GroundedCaption, reference: GroundedCaption) -> ImagePair:
    """Check prediction and reference of an image.

    Args:
        name: id of the image.
        prediction: the predicted caption.
        reference: the reference caption.

    Raises:
        MetricError: run lengths are damaged or fields are inconsistent; names image and mask.
    """
    for caption, side in ((prediction, "the prediction"), (reference, "the reference")):
        num_masks = len(caption.masks)
        if len(caption.phrase_of) != num_masks:
            raise MetricError(
                f"{name}: {side} has {num_masks} masks but {len(caption.phrase_of)} phrase indices"
            )
        if not all(-1 <= index < len(caption.phrases) for index in caption.phrase_of):
            raise MetricError(f"{name}: a mask of {side} has the index of a missing phrase")
        if len(caption.scores) not in (0, num_masks):
            raise MetricError(
                f"{name}: {side} has {num_masks} masks but {len(caption.scores)} scores"
            )
    return ImagePair(
        name,
        prediction,
        reference,
        _read_masks(name, prediction, "the prediction"),
        _read_masks(name, reference, "the reference"),
    )


def _read_masks(name: str, caption: GroundedCaption, side: str) -> list[MaskRuns]:
    runs = []
    for i, mask in enumerate(caption.masks):
        try:
            runs.append(read_runs(mask))
        except MaskError as error:
            raise MetricError(f"{name}: mask {i} of {side}: {error}") from error
    return runs


def record_irregularities(
    name: str, prediction: GroundedCaption, reference: GroundedCaption, notes: Irregularities
) -> ImagePair:
    """Check prediction and reference of an image as `read_pair` and record irregularities.

    Args:
        name: id of the image.
        prediction: the predicted caption.
        reference: the reference caption.
        notes: irregularities are added to it.

    Raises:
        MetricError: as for `read_pair`.
    """
    image = read_pair(name, prediction, reference)
    phrases, masks = len(prediction.phrases), len(prediction.masks)
    sizes = {mask.size for mask in image.reference_runs} or {
        mask.size for mask in image.predicted_runs[:1]
    }
    other_sizes = {mask.size for mask in image.predicted_runs} - sizes
    notes.add_if(other_sizes or len(sizes) > 1, "sizes disagree", name)
    notes.add_if(any(not mask.area for mask in image.predicted_runs), "empty predicted mask", name)
    notes.add_if(any(not mask.area for mask in image.reference_runs), "empty reference mask", name)
    notes.add_if(not reference.masks, "no reference mask", name)
    notes.add_if(phrases > masks, "more phrases than masks", name)
    notes.add_if(phrases < masks, "fewer phrases than masks", name)
    differ = len(reference.phrases) != len(reference.masks)
    notes.add_if(differ, "reference phrases and masks differ in number", name)
    notes.add_if(not np.isfinite(prediction.scores).all(), "scores not finite", name)
    return image


def greedy_iou(table: Float[np.ndarray, "predictions references"]) -> float:
    """Compute the mIoU of one image in compat: of greedily formed pairs; 0 without pairs."""
    # quirk 45: unpaired masks cost nothing, and two empty masks (NaN) end the pairing, because
    # NaN is the maximum but is not greater than 0.
    ious = []
    while table.size and np.max(table) > 0:
        row, column = np.unravel_index(np.argmax(table), table.shape)
        ious.append(table[row, column])
        table = np.delete(np.delete(table, row, 0), column, 1)
    return float(np.mean(ious)) if ious else 0.0


def greedy_matches(image: ImagePair, similarity: Similarity) -> list[tuple[int, int]]:
    """Return the pairs of masks that count for recall in compat.

    There is no pair at all where the original raises and catches an exception: for masks of
    different sizes, and if a best pair has no phrase of its index. Two empty masks pass as a pair:
    NaN is below no threshold.

    Returns:
        Indices of (reference, predicted) masks, in the order of the matching.
    """
    if not image.same_size:
        return []
    ious = pairwise_iou(image.reference_runs, image.predicted_runs, both_empty=np.nan)
    similar = similarity(image.reference.phrases, image.predicted.phrases)
    matches = []
    while ious.size:
        reference, predicted = map(int, np.unravel_index(np.argmax(ious), ious.shape))
        # quirk 46: the first best pair that fails a threshold ends the image.
        if ious[reference, predicted] < IOU_THRESHOLD:
            break
        if reference >= similar.shape[0] or predicted >= similar.shape[1]:
            return []
        if similar[reference, predicted] < TEXT_THRESHOLD:
            break
        matches.append((reference, predicted))
        ious[reference, :] = ious[:, predicted] = 0
    return matches


def _compat(
    images: Sequence[ImagePair], similarity: Similarity
) -> tuple[Scores, dict[str, Scores]]:
    per_item = {}
    for image in images:
        table = pairwise_iou(
            image.predicted_runs, image.reference_runs, both_empty=np.nan, size_mismatch=0.0
        )
        per_item[image.name] = {
            "mIoU": greedy_iou(table),
            "recall_matches": len(greedy_matches(image, similarity)),
            "recall_true": len(image.reference.phrases),
        }
    # quirk 44: all scores are 1, and COCO's evaluator ranks ties by the order of the image ids.
    masks = [
        ImageMasks(image.reference_runs, image.predicted_runs, [1.0] * len(image.predicted_runs))
        for image in sorted(images, key=lambda image: image.name)
    ]
    return {**coco_stats(masks), **_mean_iou_and_recall(per_item, empty=0.0)}, per_item


def _strict(
    images: Sequence[ImagePair], similarity: Similarity
) -> tuple[Scores, dict[str, Scores]]:
    per_item = {}
    for image in images:
        if not image.reference_runs:
            continue
        ious = pairwise_iou(image.reference_runs, image.predicted_runs, size_mismatch=0.0)
        similar = _mask_similarity(image, similarity)
        matches = (ious > IOU_THRESHOLD) & (similar > TEXT_THRESHOLD)
        per_item[image.name] = {
            "mIoU": _best_sum(ious) / len(image.reference_runs),
            "recall_matches": _best_sum(matches.astype(np.float64)),
            "recall_true": len(image.reference_runs),
        }
    masks = []
    for image in images:
        # Masks of unknown or invalid confidence rank last.
        scores = image.predicted.scores or (np.nan,) * len(image.predicted.masks)
        scores = [score if np.isfinite(score) else -np.inf for score in scores]
        masks.append(ImageMasks(image.reference_runs, image.predicted_runs, scores))
    return {**ranked_precision(masks), **_mean_iou_and_recall(per_item, empty=None)}, per_item


def _mask_similarity(
    image: ImagePair, similarity: Similarity
) -> Float[np.ndarray, "references predictions"]:
    """Return the similarity of the phrases of all pairs of masks; 0 for a mask without phrase."""
    # One row and one column of zeros at the end: index -1 selects them.
    padded = np.zeros((len(image.reference.phrases) + 1, len(image.predicted.phrases) + 1))
    if image.reference.phrases and image.predicted.phrases:
        padded[:-1, :-1] = similarity(image.reference.phrases, image.predicted.phrases)
    rows, columns = (np.array(x.phrase_of, int) for x in (image.reference, image.predicted))
    return padded[np.ix_(rows, columns)]


def _best_sum(table: Float[np.ndarray, "references predictions"]) -> float:
    """Return the largest sum over a one-to-one pairing."""
    return float(table[linear_sum_assignment(table, maximize=True)].sum())


def _mean_iou_and_recall(per_item: Mapping[str, Scores], empty: float | None) -> Scores:
    """Return mIoU and recall; `empty`, or no metric if that is None, where the denominator is 0."""
    rows = list(per_item.values())
    num_references = sum(row["recall_true"] for row in rows)
    num_matches = sum(row["recall_matches"] for row in rows)
    metrics = {
        "mIoU": float(np.mean([row["mIoU"] for row in rows])) if rows else empty,
        "recall": num_matches / num_references if num_references else empty,
    }
    return {name: value for name, value in metrics.items() if value is not None}
