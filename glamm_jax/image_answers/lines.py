"""An answer as a line of JSON.

{"id": "a/b.jpg#0", "image": "a/b.jpg", "question": ..., "text": ..., "raw": ...,
 "regions_xyxy_pixel": [...], "groundings": [{"phrase", "start", "end", "score", "mask", "area",
 "box_xyxy_pixel"}], "finish": "end", "problems": []}

The fields are those of `Answer.to_json`; a mask is COCO run lengths of the upright image's size.
"finish" is "failed" where the image or the question cannot be used; "problems" says why.
"""

from __future__ import annotations

import json
from typing import Any

from glamm_jax.data import rle
from glamm_jax.evaluation.benchmarks.base import Item, Prediction
from glamm_jax.text.answer_parser import parse_answer


def answer_fields(item: Item, prediction: Prediction) -> dict[str, Any]:
    """Return the fields of a line.

    Args:
        item: the question.
        prediction: its answer.
    """
    return {
        "id": item.id,
        "image": item.image_id,
        "question": item.prompt,
        "text": prediction.text,
        "raw": prediction.raw,
        "regions_xyxy_pixel": [list(box) for box in item.regions],
        "groundings": groundings(prediction),
        "finish": prediction.finish,
        "problems": list(prediction.problems),
    }


def answer_line(item: Item, prediction: Prediction) -> str:
    """Return the line with its end."""
    return json.dumps(answer_fields(item, prediction), ensure_ascii=False) + "\n"


def groundings(prediction: Prediction) -> list[dict[str, Any]]:
    """Return the phrases with their masks in the order of the text; masks without one follow."""
    parsed = parse_answer(prediction.raw)
    masks_of: dict[int, list[int]] = {}
    for index, phrase in enumerate(prediction.phrase_of):
        masks_of.setdefault(phrase, []).append(index)
    result = []
    for number, phrase in enumerate(parsed.phrases):
        fields = {"phrase": phrase.text, "start": phrase.start, "end": phrase.end}
        for index in masks_of.get(number, ()):
            result.append(fields | _mask_fields(prediction, index))
        if number not in masks_of:
            empty = {"score": None, "mask": None, "area": 0, "box_xyxy_pixel": None}
            result.append(fields | empty)
    for index in masks_of.get(-1, ()):
        end = len(parsed.text)
        result.append({"phrase": "", "start": end, "end": end} | _mask_fields(prediction, index))
    return result


def _mask_fields(prediction: Prediction, index: int) -> dict[str, Any]:
    mask = prediction.masks[index]
    score = prediction.scores[index] if index < len(prediction.scores) else None
    box = rle.box(mask)
    area = rle.area(mask)
    return {"score": score, "mask": dict(mask), "area": area, "box_xyxy_pixel": box}
