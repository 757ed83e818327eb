"""Average precision of masks of one kind, by COCO's evaluator or with ties taken as ties.

COCO's rules: a prediction is right at a threshold when its IoU with a truth that is still free
reaches it; predictions choose in the order of their scores, and the precision that is reached at
101 levels of recall is averaged. Ten thresholds, 0.5 to 0.95; at most 100 predictions an image.
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
# Figures of `ranked_precision`: the thresholds that count, and the areas, by COCO's numbers.
RANKED = {
    "AP": (slice(None), 0),
    "AP50": (slice(0, 1), 0),
    "AP75": (slice(5, 6), 0),
    "AP_small": (slice(None), 1),
    "AP_medium": (slice(None), 2),
    "AP_large": (slice(None), 3),
}


class ImageMasks(NamedTuple):
    """An image's true masks, those said, and how sure of each the model is (larger is surer)."""

    reference: Sequence[MaskRuns]
    predicted: Sequence[MaskRuns]
    scores: Sequence[float]


def coco_stats(images: Sequence[ImageMasks]) -> dict[str, float]:
    """COCO's twelve figures by name; -1 where nothing is to be found.

    Equal scores keep the order of the images, and within an image that of its masks.
    """
    evaluator = _evaluated(images)
    with redirect_stdout(io.StringIO()):
        evaluator.accumulate()
        evaluator.summarize()
    return dict(zip(COCO_STATS, map(float, evaluator.stats), strict=True))


def ranked_precision(images: Sequence[ImageMasks]) -> dict[str, float]:
    """AP, AP50, AP75 and AP by size; figures without anything to be found are left out.

    Predictions are matched by COCO's evaluator. A level of the score is a point of the curve:
    equal scores are accepted or rejected together, so no order among them has a say.
    """
    evaluator = _evaluated(images)
    levels = np.asarray(evaluator.params.recThrs)
    found = {}
    for name, (thresholds, area) in RANKED.items():
        results = evaluator.evalImgs[area * len(images) : (area + 1) * len(images)]
        table = _precision([each for each in results if each is not None], levels)
        if table is not None:
            found[name] = float(table[thresholds].mean())
    return found


def _precision(
    results: Sequence[Any], levels: Float[np.ndarray, "r"]
) -> Float[np.ndarray, "t"] | None:
    """Average precision at every threshold of IoU, out of the evaluator's matches."""
    num_true = sum(np.count_nonzero(np.asarray(each["gtIgnore"]) == 0) for each in results)
    if not num_true:
        return None
    scores = np.concatenate([np.asarray(each["dtScores"], np.float64) for each in results])
    order = np.argsort(-scores, kind="stable")
    scores = scores[order]
    matched, ignored = (
        np.concatenate([np.asarray(each[name]) != 0 for each in results], axis=1)[:, order]
        for name in ("dtMatches", "dtIgnore")
    )
    last = np.ones(scores.size, bool)
    last[:-1] = scores[1:] != scores[:-1]
    right = np.cumsum(matched & ~ignored, axis=1)[:, last]
    wrong = np.cumsum(~matched & ~ignored, axis=1)[:, last]
    recall, precision = right / num_true, right / np.maximum(right + wrong, 1)
    # What precision can still be had at this recall or a higher one.
    best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    best = np.pad(best, [(0, 0), (0, 1)])
    return np.array(
        [row[np.searchsorted(at, levels)].mean() for row, at in zip(best, recall, strict=True)]
    )


def _evaluated(images: Sequence[ImageMasks]) -> COCOeval:
    """COCO's evaluator after matching. Images and masks are numbered in their order."""
    sides = []
    with redirect_stdout(io.StringIO()):
        for name in ("reference", "predicted"):
            side: Any = COCO()
            side.dataset = {
                "images": [{"id": i, "height": 0, "width": 0} for i in range(len(images))],
                "categories": [{"id": 1}],
                "annotations": list(_annotations(images, name)),
            }
            side.createIndex()
            sides.append(side)
        true, said = sides
        evaluator = COCOeval(true, said, "segm")
        evaluator.evaluate()
    return evaluator


def _annotations(images: Sequence[ImageMasks], side: str) -> Iterator[dict[str, Any]]:
    ids = count(1)  # an id of 0 would read as "no match"
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
