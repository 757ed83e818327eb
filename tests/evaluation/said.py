"""Held-out scenes of the mini-world, and answers to them that are right, wrong or odd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.evaluation.item import Item, Prediction
from glamm_jax.metrics.iou import iou
from glamm_jax.metrics.result import MetricResult
from glamm_jax.miniworld import FULL, render_scene, scene_record

SIZE = 96
PROMPT = "Could you describe the picture? Answer with masks."


def items_of(number: int) -> list[Item]:
    """Grounded captions of that many scenes."""
    return [_item(i) for i in range(number)]


def picture_of(item: Item) -> np.ndarray:
    """The picture of an item of `items_of`."""
    return open_image(scene_record(render_scene(0, item.record, SIZE, FULL)).image)


def right_answer(item: Item) -> Prediction:
    """Everything as in the truth."""
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
    """Right words, masks too far to the right, the last one missing."""
    answer = right_answer(item)
    moved = [np.roll(rle.decode(mask), pixels, axis=1) for mask in answer.masks[:-1]]
    return replace(
        answer,
        masks=tuple(rle.encode(mask) for mask in moved),
        phrase_of=answer.phrase_of[:-1],
        scores=answer.scores[:-1],
        problems=(f"phrase {len(moved)} {answer.phrases[-1]!r} has no [SEG]",),
    )


def scored_of(items: list[Item], predictions: list[Prediction]) -> MetricResult:
    """Figures of three kinds: a mean, a ratio of sums, and one of the whole."""
    each: dict[str, dict[str, float]] = {}
    for item, said in zip(items, predictions, strict=True):
        pairs = [
            (said.masks[i] if i < len(said.masks) else None, mask)
            for i, mask in enumerate(item.reference_masks)
        ]
        found = [iou(*pair) for pair in pairs]
        each[item.id] = {
            "mIoU": float(np.mean(found)),
            "matches": float(np.sum(np.array(found) >= 0.5)),
            "phrases": float(len(found)),
        }
    columns = {key: [row[key] for row in each.values()] for key in ("mIoU", "matches", "phrases")}
    recall = sum(columns["matches"]) / sum(columns["phrases"])
    return MetricResult(
        {"mIoU": float(np.mean(columns["mIoU"])), "recall": recall, "AP50": recall / 2},
        each,
        {"recall": ("matches", "phrases")},
        {"missing prediction": (items[-1].id,)},
    )


def _item(number: int) -> Item:
    drawn = scene_record(render_scene(0, number, SIZE, FULL))
    annotation = next(each for each in drawn.annotations if each.task == "gcg")
    links: dict[int, str] = {}
    for link in annotation.links:
        links.setdefault(link.region, annotation.text[link.start : link.end])
    size = [drawn.height, drawn.width]
    return Item(
        id=f"scene {number}",
        image_id=f"scene {number}",
        record=number,
        prompt=PROMPT,
        reference_texts=(annotation.text,),
        reference_phrases=tuple(links.values()),
        reference_masks=tuple(
            {"size": size, "counts": (drawn.regions[region].mask or b"").decode()}
            for region in links
        ),
    )
