"""Average precision (AP) of masks of one category: COCO's, or with ties ranked together.

COCO's rules: a prediction is correct at a threshold if its IoU with a reference that is not matched
yet reaches it. Predictions are matched in the order of their scores, at most 100 of an image. The
precision at 101 levels of recall is averaged, and that over ten thresholds, 0.5 to 0.95.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from itertools import count
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from glamm_jax.data import rle
from glamm_jax.metrics.iou import MaskRuns

COCO_STATS = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
# Metrics of `ranked_precision` -> indices of the thresholds, and index of the range of areas in
# COCO's evaluator.
RANKED = {
    "AP": (slice(None), 0),
    "AP50": (slice(0, 1), 0),
    "AP75": (slice(5, 6), 0),
    "AP_small": (slice(None), 1),
    "AP_medium": (slice(None), 2),
    "AP_large": (slice(None), 3),
}


class ImageMasks(NamedTuple):
    """The masks of an image.

    Attributes:
        reference: reference masks.
        predicted: predicted masks.
        scores: confidence of every predicted mask.
    """

    reference: Sequence[MaskRuns]
    predicted: Sequence[MaskRuns]
    scores: Sequence[float]


def coco_stats(images: Sequence[ImageMasks]) -> dict[str, float]:
    """Return COCO's twelve metrics; -1 for one without reference masks.

    Predictions of equal scores are ranked by the order of images and of masks within an image.
    """
    evaluator = _evaluate(images)
    with redirect_stdout(io.StringIO()):
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(COCO_STATS, map(float, evaluator.stats), strict=True))


def ranked_precision(images: Sequence[ImageMasks]) -> dict[str, float]:
    """Return AP, AP50, AP75 and AP by size, without those that have no reference masks.

    Predictions are matched by COCO's evaluator. Every distinct score is one point of the
    precision-recall curve: equal scores are accepted or rejected together, so their order has no
    influence.
    """
    evaluator = _evaluate(images)
    recall_levels = np.asarray(evaluator.params.recThrs)
    metrics = {}
    for name, (thresholds, area) in RANKED.items():
        results = evaluator.evalImgs[area * len(images) : (area + 1) * len(images)]
        results = [result for result in results if result is not None]
        table = _average_precision(results, recall_levels)
        if table is not None:
            metrics[name] = float(table[thresholds].mean())
    return metrics


def _average_precision(
    results: Sequence[Any], recall_levels: Float[np.ndarray, "r"]
) -> Float[np.ndarray, "t"] | None:
    """Return the average precision at every IoU threshold, from the evaluator's matches."""
    num_references = sum(np.count_nonzero(np.asarray(item["gtIgnore"]) == 0) for item in results)
    if not num_references:
        return None
    scores = np.concatenate([np.asarray(item["dtScores"], np.float64) for item in results])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    matched, ignored = (
        np.concatenate([np.asarray(item[name]) != 0 for item in results], axis=1)[:, order]
        for name in ("dtMatches", "dtIgnore")
    )
    # The last one of every group of equal scores.
    is_last = np.ones(scores.size, bool)
    is_last[:-1] = scores[1:] != scores[:-1]
    correct = np.cumsum(matched & ~ignored, axis=1)[:, is_last]
    wrong = np.cumsum(~matched & ~ignored, axis=1)[:, is_last]
    recall, precision = correct / num_references, correct / np.maximum(correct + wrong, 1)
    # The best precision at this recall or a higher one.
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.pad(best, [(0, 0), (0, 1)])
    return np.array(
        [
            row[np.searchsorted(recalls, recall_levels)].mean()
            for row, recalls in zip(best, recall, strict=True)
        ]
    )


def _evaluate(images: Sequence[ImageMasks]) -> COCOeval:
    """Return COCO's evaluator after matching; images and masks have consecutive ids."""
    datasets = []
    with redirect_stdout(io.StringIO()):
        for side in ("reference", "predicted"):
            dataset: Any = COCO()
            dataset.dataset = {
                "images": [{"id": i, "height": 0, "width": 0} for i in range(len(images))],
                "categories": [{"id": 1}],
                "annotations": list(_annotations(images, side)),
            }
            dataset.createIndex()
            datasets.append(dataset)
        references, predictions = datasets
        evaluator = COCOeval(references, predictions, "segm")
        evaluator.evaluate()
    return evaluator


def _annotations(images: Sequence[ImageMasks], side: str) -> Iterator[dict[str, Any]]:
    """Yield COCO's annotations of the reference or of the predicted masks."""
    ids = count(1)  # the evaluator takes an id of 0 for "no match"
    for i, image in enumerate(images):
        masks = getattr(image, side)
        scores = image.scores if side == "predicted" else [1.0] * len(masks)
        for mask, score in zip(masks, scores, strict=True):
            runs = {"size": list(mask.size), "counts": np.diff(mask.ends, prepend=0)}
            yield {
                "id": next(ids),
                "image_id": i,
                "category_id": 1,
                "segmentation": rle.compress(runs),
                "area": mask.area,
                "iscrowd": 0,
                "score": score,
            }
