"""How certain the annotations of an image are, by its record alone.

    record_confidence(record).value         # 0 to 1
    record_confidence(record).reasons       # ("the dense caption was not checked", ...)

The product of four factors in (0, 1], each by what is least certain in the record:

    caption     1 verified; 0.7 not checked; 0.5 by the template, or missing; 0.2 names what the
                scene graph does not have
    score       lowest detection score of an object
    votes       fewest models n that found an object: (n + 1) / (n + 2), the rule of succession
    mask        lowest IoU of the box of an object and the box around its mask; 0.5 for an object
                without a mask where others have one

and 0.5 for an image of which a stage failed. Floating objects do not count: they are annotated only
if a phrase names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pycocotools import mask as coco

from glamm_jax.data import rle
from glamm_jax.data.rle import MaskError
from glamm_jax.grand.geometry import plain_iou
from glamm_jax.grand.record import GrandObject, GrandRecord

VERIFIED, UNCHECKED, NO_CAPTION, TEMPLATE_CAPTION, CONTRADICTED = 1.0, 0.7, 0.5, 0.5, 0.2
MISSING_MASK = 0.5
FAILED_STAGE = 0.5
LOWEST = 0.01  # of a factor, so that a product of one that is 0 still depends on the others
NOTED = 0.75  # a factor below this is a reason


@dataclass(frozen=True)
class RecordConfidence:
    """How certain a record is.

    Attributes:
        value: in (0, 1].
        reasons: why it is low, the strongest first.
    """

    value: float
    reasons: tuple[str, ...]


def record_confidence(record: GrandRecord, *, is_partial: bool = False) -> RecordConfidence:
    """Return the confidence of the automatic record of an image.

    Args:
        record: the automatic record.
        is_partial: whether a stage failed.
    """
    factors = [_caption(record), *_objects(record.objects)]
    if is_partial:
        factors.append((FAILED_STAGE, "a stage failed"))
    value = 1.0
    for factor, _ in factors:
        value *= max(factor, LOWEST)
    reasons = [(factor, text) for factor, text in factors if text and factor < NOTED]
    return RecordConfidence(value, tuple(text for _, text in sorted(reasons)))


def _caption(record: GrandRecord) -> tuple[float, str]:
    if record.dense_caption is None:
        return NO_CAPTION, "there is no dense caption"
    if record.dense_source == "template":
        return TEMPLATE_CAPTION, "the template wrote the dense caption"
    if record.verified is None:
        return UNCHECKED, "the dense caption was not checked"
    if not record.verified:
        return CONTRADICTED, "the dense caption names what the scene graph does not have"
    return VERIFIED, ""


def _objects(objects: tuple[GrandObject, ...]) -> list[tuple[float, str]]:
    scores = [(item.score, item.id) for item in objects if item.score is not None]
    factors: list[tuple[float, str]] = []
    if scores:
        score, number = min(scores)
        factors.append((score, f"object {number} has score {score:.2f}"))
    if objects:
        votes, number = min((len({v.source for v in item.votes}), item.id) for item in objects)
        models = "1 model" if votes == 1 else f"{votes} models"
        factors.append(((votes + 1) / (votes + 2), f"{models} found object {number}"))
    if any(item.mask is not None for item in objects):
        factors.append(min(_mask(item) for item in objects))
    return factors


def _mask(item: GrandObject) -> tuple[float, str]:
    if item.mask is None:
        return MISSING_MASK, f"object {item.id} has no mask"
    try:
        runs: Any = rle.compress(item.mask)
    except MaskError:
        return LOWEST, f"the mask of object {item.id} is damaged"
    x, y, width, height = coco.toBbox(runs).tolist()
    iou = plain_iou(item.box, (x, y, x + width, y + height)) if width and height else 0.0
    return iou, f"mask and box of object {item.id} have IoU {iou:.2f}"
