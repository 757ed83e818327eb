"""Masks of objects: of proposals, else of a detector, else of a segmenter that gets the box.

    record = assign_masks(record, proposals, detections, MaskOptions())
    jobs = mask_jobs(record, MaskOptions())
    record = add_masks(record, segmenter(jobs), MaskOptions())

Source: GranD/utils/add_masks_to_annotations.py, GranD/utils/grand_sam.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from glamm_jax.grand.geometry import best_iou
from glamm_jax.grand.options import MaskOptions
from glamm_jax.grand.record import (
    Box,
    Detection,
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    RunLengths,
    changed,
)

MIN_VECTORIZED = 24  # boxes; for fewer, Python is faster than numpy


class MaskJob(NamedTuple):
    """A box without mask.

    Attributes:
        id: of the object.
        box: of the object.
        prompt: what the segmenter gets.
    """

    id: int
    box: Box
    prompt: Box


def assign_masks(
    record: GrandRecord,
    proposals: Sequence[Detection],
    detections: Mapping[str, Sequence[Detection]],
    options: MaskOptions,
) -> GrandRecord:
    """Give each object the mask of the proposal, or of the detection, whose box fits it best.

    Args:
        record: after the dense caption.
        proposals: regions with masks.
        detections: of each model; those of `options.detector` are used.
        options: how well the box must fit, and what changes with the mask.
    """
    proposals = [item for item in proposals if item.mask is not None]
    detected: list[Detection] = []
    if options.detector is not None:
        detected = [
            item
            for item in detections.get(options.detector, ())
            if item.mask is not None and item.score >= options.min_detector_score
        ]
    objects, floats = list(record.objects), list(record.floating_objects)
    for items in (objects, floats):
        for source, candidates in zip(options.sources, (proposals, detected), strict=False):
            left = [i for i, item in enumerate(items) if item.mask is None]
            for i, (index, iou) in zip(
                left, _best_of_all([items[i].box for i in left], candidates), strict=True
            ):
                if iou >= options.iou:
                    match = candidates[index]
                    box = match.box if options.replace_boxes else items[i].box
                    items[i] = changed(items[i], box=box, mask=match.mask, mask_source=source)
    record = changed(record, objects=tuple(objects), floating_objects=tuple(floats))
    return with_new_boxes(record) if options.update_groundings else record


def _best_of_all(boxes: Sequence[Box], candidates: Sequence[Detection]) -> list[tuple[int, float]]:
    """Return index and IoU of the best candidate of each box."""
    others = [item.box for item in candidates]
    if len(others) < MIN_VECTORIZED or not boxes:
        return [best_iou(box, others) for box in boxes]
    # The expressions of `inclusive_iou` in float64, so the results are the same.
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)
    low, high = np.maximum(a[..., :2], b[:, :2]), np.minimum(a[..., 2:], b[:, 2:])
    sides = np.maximum(high - low + 1, 0)
    inter = sides[..., 0] * sides[..., 1]
    area_a, area_b = a[..., 2:] - a[..., :2] + 1, b[:, 2:] - b[:, :2] + 1
    union = area_a[..., 0] * area_a[..., 1] + area_b[:, 0] * area_b[:, 1] - inter
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union != 0)
    best = iou.argmax(1)
    return list(zip(best.tolist(), iou[np.arange(len(boxes)), best].tolist(), strict=True))


def mask_jobs(record: GrandRecord, options: MaskOptions) -> tuple[MaskJob, ...]:
    """Return the boxes that still need a mask, objects before floating objects.

    Args:
        record: after `assign_masks`.
        options: form of the prompts, and whether a repeated id is one job.
    """
    items = [x for x in (*record.objects, *record.floating_objects) if x.mask is None]
    jobs = [MaskJob(x.id, x.box, _prompt(x.box, options)) for x in items]
    return tuple(jobs) if options.unique_jobs else tuple({job.id: job for job in jobs}.values())


def _prompt(box: Box, options: MaskOptions) -> Box:
    x0, y0, x1, y1 = box
    return box if options.corner_boxes else (x0, y0, x0 + x1, y0 + y1)


def add_masks(
    record: GrandRecord, masks: Sequence[RunLengths | None], options: MaskOptions
) -> GrandRecord:
    """Return the record with the masks of its `mask_jobs`.

    Args:
        record: after `assign_masks`.
        masks: one per job; None leaves its object without mask.
        options: those of `mask_jobs`.
    """
    jobs = mask_jobs(record, options)
    by_id = {job.id: mask for job, mask in zip(jobs, masks, strict=True)}
    in_order = iter(masks)

    def complete(item: GrandObject) -> GrandObject:
        if item.mask is not None:
            return item
        mask = next(in_order) if options.unique_jobs else by_id[item.id]
        if mask is None:
            return item
        return changed(item, mask=mask, mask_source=options.sources[2])

    return changed(
        record,
        objects=tuple([complete(item) for item in record.objects]),
        floating_objects=tuple([complete(item) for item in record.floating_objects]),
    )


def with_new_boxes(record: GrandRecord) -> GrandRecord:
    """Return the record with the boxes of the objects in the groundings of its captions."""
    boxes = {item.id: item.box for item in (*record.objects, *record.floating_objects)}

    def moved(item: PhraseGrounding) -> PhraseGrounding:
        new_boxes = tuple([boxes.get(number) for number in item.object_ids])
        return PhraseGrounding(item.phrase, item.span, item.object_ids, new_boxes)

    def update(caption: GrandCaption) -> GrandCaption:
        return GrandCaption(caption.caption, tuple([moved(item) for item in caption.groundings]))

    if record.short_captions is not None:
        short = tuple([update(caption) for caption in record.short_captions])
        record = changed(record, short_captions=short)
    if record.dense_caption is not None:
        record = changed(record, dense_caption=update(record.dense_caption))
    return record
