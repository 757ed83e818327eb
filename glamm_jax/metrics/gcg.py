"""Grounded conversation generation: AP, mIoU and mask recall of captions with masks.

| figure | compat: the original's code | strict: the definition |
|---|---|---|
| AP, AP50, AP75 | every mask has score 1, so ties are ranked by image id and order of saying | \
ranked by the decoder's own estimate; equal scores are one point of the curve |
| mIoU | greedy pairs of masks, largest IoU first; masks without a pair cost nothing; two empty \
masks (0 / 0) end an image's pairing; an image without pairs is 0 | the pairing with the largest \
sum, over all true masks: one that is not found counts 0; two empty masks agree |
| recall | the pair with the largest IoU first; the first that fails a threshold ends the image, \
whatever comes behind it; masks belong to phrases by their numbers | the most true masks that can \
be found at once, each by a mask of its own; masks belong to the phrases in front of them |

The denominators of recall are the true phrases (compat) and the true masks (strict: paper,
appendix A.1). An image counts in the mIoU of compat whatever it holds, in that of strict when it
has true masks. docs/metrics.md shows what each difference is worth.

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


class GroundedCaption(NamedTuple):
    """A caption with its phrases and masks, as it was said or as it is true.

    phrase_of: for each mask the number of its phrase, -1 for none.
    scores: how sure of each mask the decoder is; empty where nobody knows.
    """

    caption: str
    phrases: tuple[str, ...]
    masks: tuple[RunLengths, ...]
    phrase_of: tuple[int, ...]
    scores: tuple[float, ...] = ()


NOTHING = GroundedCaption("", (), (), ())


def owners_by_number(num_phrases: int, num_masks: int) -> tuple[int, ...]:
    """`phrase_of` where masks and phrases are two lists, as the original writes them."""
    return tuple(i if i < num_phrases else -1 for i in range(num_masks))


class ImagePair(NamedTuple):
    """An image with its masks as checked runs."""

    name: str
    predicted: GroundedCaption
    reference: GroundedCaption
    predicted_runs: list[MaskRuns]
    reference_runs: list[MaskRuns]

    @property
    def one_size(self) -> bool:
        """Whether all masks can be compared with each other."""
        return len({each.size for each in (*self.predicted_runs, *self.reference_runs)}) <= 1


def score_gcg(
    said: Mapping[str, GroundedCaption],
    true: Mapping[str, GroundedCaption],
    similarity: Similarity,
    mode: Mode,
) -> MetricResult:
    """AP, mIoU and recall of all images of `true`; words alone are for `score_captions`.

    An image without a prediction counts as one without phrases and masks (the original stops
    there); predictions of other images are left out. A mask of another size than the true ones
    agrees with nothing; in compat it also ends the image's recall, as the original's exception
    does, while its mIoU, where the original stops, takes that mask as 0.

    Raises: MetricError naming image and mask when run lengths are broken or fields disagree.
    """
    notes = Irregularities()
    notes.add_unknown(said, true)
    images = [
        record_irregularities(name, said.get(name, NOTHING), truth, notes)
        for name, truth in true.items()
    ]
    scores, each = (_compat if mode == "compat" else _strict)(images, similarity)
    return MetricResult(scores, each, RATIOS, notes.as_dict())


def read_pair(name: str, said: GroundedCaption, true: GroundedCaption) -> ImagePair:
    """Check what was said about an image, and the truth.

    Raises: MetricError naming image and mask.
    """
    for caption, side in ((said, "the prediction"), (true, "the truth")):
        if len(caption.phrase_of) != len(caption.masks):
            raise MetricError(f"{name}: {side} does not say whose each of its masks is")
        if not all(-1 <= number < len(caption.phrases) for number in caption.phrase_of):
            raise MetricError(f"{name}: a mask of {side} belongs to a phrase that is not there")
        if len(caption.scores) not in (0, len(caption.masks)):
            raise MetricError(f"{name}: {side} has not as many scores as masks")
    runs = (_read_masks(name, said, "the prediction"), _read_masks(name, true, "the truth"))
    return ImagePair(name, said, true, *runs)


def record_irregularities(
    name: str, said: GroundedCaption, true: GroundedCaption, notes: Irregularities
) -> ImagePair:
    """An image as `read_image` gives it, and a note of everything irregular about it."""
    image = read_pair(name, said, true)
    sizes = {each.size for each in image.reference_runs} or {
        each.size for each in image.predicted_runs[:1]
    }
    others = {each.size for each in image.predicted_runs} - sizes
    notes.add_if(others or len(sizes) > 1, "sizes disagree", name)
    notes.add_if(any(not each.area for each in image.predicted_runs), "empty mask said", name)
    notes.add_if(any(not each.area for each in image.reference_runs), "empty true mask", name)
    notes.add_if(not true.masks, "no true mask", name)
    notes.add_if(len(said.phrases) > len(said.masks), "more phrases than masks", name)
    notes.add_if(len(said.phrases) < len(said.masks), "fewer phrases than masks", name)
    notes.add_if(len(true.phrases) != len(true.masks), "true phrases and masks disagree", name)
    notes.add_if(not np.isfinite(said.scores).all(), "scores not finite", name)
    return image


def greedy_iou(table: Float[np.ndarray, "said true"]) -> float:
    """compat: mean IoU of the pairs taken greedily, of one image; 0 without pairs.

    NaN, two empty masks, is the largest of all and above nothing: it ends the pairing (trap 45).
    """
    found = []
    while table.size and np.max(table) > 0:
        row, column = np.unravel_index(np.argmax(table), table.shape)
        found.append(table[row, column])
        table = np.delete(np.delete(table, row, 0), column, 1)
    return float(np.mean(found)) if found else 0.0


def greedy_matches(image: ImagePair, similarity: Similarity) -> list[tuple[int, int]]:
    """compat: (true, said) numbers of the masks that count as found, in the order of finding.

    The search ends at the first best pair that fails (trap 46). There is no match at all where the
    original raises and catches: with masks of several sizes, or when a best pair has no label of
    its number. Two empty masks pass as a pair: NaN is below no threshold.
    """
    if not image.one_size:
        return []
    ious = pairwise_iou(image.reference_runs, image.predicted_runs, both_empty=np.nan)
    similar = similarity(image.reference.phrases, image.predicted.phrases)
    matches = []
    while ious.size:
        true, said = map(int, np.unravel_index(np.argmax(ious), ious.shape))
        if ious[true, said] < IOU_THRESHOLD:
            break
        if true >= similar.shape[0] or said >= similar.shape[1]:
            return []
        if similar[true, said] < TEXT_THRESHOLD:
            break
        matches.append((true, said))
        ious[true, :] = ious[:, said] = 0
    return matches


def _compat(
    images: Sequence[ImagePair], similarity: Similarity
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    each = {}
    for image in images:
        table = pairwise_iou(
            image.predicted_runs, image.reference_runs, both_empty=np.nan, unequal=0.0
        )
        each[image.name] = {
            "mIoU": greedy_iou(table),
            "recall_matches": len(greedy_matches(image, similarity)),
            "recall_true": len(image.reference.phrases),
        }
    # COCO's evaluator looks at images in the order of their ids.
    ordered = sorted(images, key=lambda image: image.name)
    stats = coco_stats(
        [
            ImageMasks(one.reference_runs, one.predicted_runs, [1.0] * len(one.predicted_runs))
            for one in ordered
        ]
    )
    return {**stats, **_summed(each, empty=0.0)}, each


def _strict(
    images: Sequence[ImagePair], similarity: Similarity
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    each = {}
    for image in images:
        if not image.reference_runs:
            continue
        ious = pairwise_iou(image.reference_runs, image.predicted_runs, unequal=0.0)
        found = (ious > IOU_THRESHOLD) & (_of_masks(image, similarity) > TEXT_THRESHOLD)
        each[image.name] = {
            "mIoU": _best_sum(ious) / len(image.reference_runs),
            "recall_matches": _best_sum(found.astype(np.float64)),
            "recall_true": len(image.reference_runs),
        }
    ranked = ranked_precision(
        [
            ImageMasks(one.reference_runs, one.predicted_runs, _scores(one.predicted))
            for one in images
        ]
    )
    return {**ranked, **_summed(each, empty=None)}, each


def _of_masks(image: ImagePair, similarity: Similarity) -> Float[np.ndarray, "true said"]:
    """How alike the phrases of every two masks are; 0 where one has no phrase."""
    # One row and column of zeros behind the phrases: where -1 leads.
    padded = np.zeros((len(image.reference.phrases) + 1, len(image.predicted.phrases) + 1))
    if image.reference.phrases and image.predicted.phrases:
        padded[:-1, :-1] = similarity(image.reference.phrases, image.predicted.phrases)
    rows, columns = (np.array(one.phrase_of, int) for one in (image.reference, image.predicted))
    return padded[np.ix_(rows, columns)]


def _best_sum(table: Float[np.ndarray, "true said"]) -> float:
    """The largest sum that one-to-one pairs can reach."""
    return float(table[linear_sum_assignment(table, maximize=True)].sum())


def _summed(each: Mapping[str, Mapping[str, float]], empty: float | None) -> dict[str, float]:
    """mIoU and recall; where there is nothing to divide by, `empty`, or no figure."""
    columns = list(each.values())
    true = sum(one["recall_true"] for one in columns)
    found = sum(one["recall_matches"] for one in columns)
    figures = {
        "mIoU": float(np.mean([one["mIoU"] for one in columns])) if columns else empty,
        "recall": found / true if true else empty,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _scores(said: GroundedCaption) -> list[float]:
    """What masks are ranked by; last where nobody knows."""
    known = said.scores or (np.nan,) * len(said.masks)
    return [score if np.isfinite(score) else -np.inf for score in known]


def _read_masks(name: str, caption: GroundedCaption, side: str) -> list[MaskRuns]:
    runs = []
    for i, mask in enumerate(caption.masks):
        try:
            runs.append(read_runs(mask))
        except MaskError as error:
            raise MetricError(f"{name}: mask {i} of {side}: {error}") from error
    return runs
