"""Grounded captions of mini-world scenes, with perfect and shifted predictions and their scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.metrics.iou import iou
from glamm_jax.metrics.result import MetricResult
from glamm_jax.miniworld import FULL, render_scene, scene_record

SIZE = 96
PROMPT = "Could you describe the picture? Answer with masks."


def scene_items(number: int) -> list[Item]:
    """Grounded captions of that many scenes."""
    return [_item(i) for i in range(number)]


def scene_image(item: Item) -> np.ndarray:
    """The image of an item of `scene_items`."""
    return open_image(scene_record(render_scene(0, item.record, SIZE, FULL)).image)


def perfect_answer(item: Item) -> Prediction:
    """Text, phrases and masks of the reference."""
    return Prediction(
        item.id,
        item.image_id,
        item.reference_texts[0],
        phrases=item.reference_phrases,
        masks=item.reference_masks,
        phrase_of=tuple(range(len(item.reference_masks))),
        scores=(0.9,) * len(item.reference_masks),
    )


def shifted_answer(item: Item, pixels: int) -> Prediction:
    """The text of the reference, its masks shifted to the right, the last one missing."""
    answer = perfect_answer(item)
    moved = [np.roll(rle.decode(mask), pixels, axis=1) for mask in answer.masks[:-1]]
    return replace(
        answer,
        masks=tuple(rle.encode(mask) for mask in moved),
        phrase_of=answer.phrase_of[:-1],
        scores=answer.scores[:-1],
        problems=(f"phrase {len(moved)} {answer.phrases[-1]!r} has no [SEG]",),
    )


def example_result(items: list[Item], predictions: list[Prediction]) -> MetricResult:
    """Metrics of three kinds: a mean, a ratio of sums, and one of all items at once."""
    per_item: dict[str, dict[str, float]] = {}
    for item, prediction in zip(items, predictions, strict=True):
        masks = prediction.masks
        ious = [
            iou(masks[i] if i < len(masks) else None, mask)
            for i, mask in enumerate(item.reference_masks)
        ]
        per_item[item.id] = {
            "mIoU": float(np.mean(ious)),
            "matches": float(np.sum(np.array(ious) >= 0.5)),
            "phrases": float(len(ious)),
        }
    rows = per_item.values()
    columns = {key: [row[key] for row in rows] for key in ("mIoU", "matches", "phrases")}
    recall = sum(columns["matches"]) / sum(columns["phrases"])
    return MetricResult(
        {"mIoU": float(np.mean(columns["mIoU"])), "recall": recall, "AP50": recall / 2},
        per_item,
        {"recall": ("matches", "phrases")},
        {"missing prediction": (items[-1].id,)},
    )


def _item(number: int) -> Item:
    source = scene_record(render_scene(0, number, SIZE, FULL))
    annotation = next(each for each in source.annotations if each.task == "gcg")
    links: dict[int, str] = {}
    for link in annotation.links:
        links.setdefault(link.region, annotation.text[link.start : link.end])
    size = [source.height, source.width]
    return Item(
        id=f"scene {number}",
        image_id=f"scene {number}",
        record=number,
        prompt=PROMPT,
        reference_texts=(annotation.text,),
        reference_phrases=tuple(links.values()),
        reference_masks=tuple(
            {"size": size, "counts": (source.regions[region].mask or b"").decode()}
            for region in links
        ),
    )
