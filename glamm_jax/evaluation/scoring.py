"""Predictions against truths: what each benchmark hands to which metrics.

An item without a prediction is left to the metrics, which name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from glamm_jax.evaluation.item import Item, Prediction, RunLengths
from glamm_jax.metrics.iou import iou
from glamm_jax.metrics.phrases import score_phrases, sum_scores, words
from glamm_jax.metrics.scored import Mode, Scored


@dataclass(frozen=True)
class Judges:
    """What scoring needs beside numbers."""


def score_grounded_captions(
    items: Sequence[Item], said: Mapping[str, Prediction], mode: Mode, judges: Judges
) -> Scored:
    return _phrases(items, said)


def score_referring(
    items: Sequence[Item], said: Mapping[str, Prediction], mode: Mode, judges: Judges
) -> Scored:
    free = [item for item in items if not item.history]
    forced = [item for item in items if item.history]
    return _mean_iou(forced, said, "gIoU") | _mean_iou(free, said, "free gIoU")


def score_regions(
    items: Sequence[Item], said: Mapping[str, Prediction], mode: Mode, judges: Judges
) -> Scored:
    """Descriptions of boxes, and the share that is word for word a true one."""
    each = {item.id: {"exact": float(_is_exact(item, said.get(item.id)))} for item in items}
    return Scored({"exact": _mean(each, "exact")}, each)


score_captions_of = score_regions
score_conversation = score_regions
score_grounded_phrases = score_grounded_captions


def _is_exact(item: Item, prediction: Prediction | None) -> bool:
    return prediction is not None and words(prediction.text) in [*map(words, item.true_texts)]


def _phrases(items: Sequence[Item], said: Mapping[str, Prediction]) -> Scored:
    scores = {}
    for item in items:
        prediction = said.get(item.id)
        scores[item.id] = score_phrases(
            [] if prediction is None else _said(prediction),
            [*zip(item.true_phrases, item.true_masks, strict=True)],
        )
    total = sum_scores([*scores.values()])
    each = {name: {"phrases right": float(x.right)} for name, x in scores.items()}
    return Scored({"phrases_right": total.phrases_right, "phrase_mask_iou": total.mask_iou}, each)


def _said(prediction: Prediction) -> list[tuple[str, RunLengths | None]]:
    found = []
    for i, phrase in enumerate(prediction.phrases):
        own = [
            m for m, owner in zip(prediction.masks, prediction.phrase_of, strict=True) if owner == i
        ]
        found.append((phrase, own[0] if own else None))
    return found


def _mean_iou(items: Sequence[Item], said: Mapping[str, Prediction], name: str) -> Scored:
    each = {}
    for item in items:
        prediction = said.get(item.id)
        masks = prediction.masks if prediction else ()
        pairs = [
            (masks[i] if i < len(masks) else None, true) for i, true in enumerate(item.true_masks)
        ]
        each[item.id] = {name: float(np.mean([iou(*pair) for pair in pairs]))}
    return Scored({name: _mean(each, name)}, each)


def _mean(each: Mapping[str, Mapping[str, float]], column: str) -> float:
    return float(np.mean([columns[column] for columns in each.values()])) if each else 0.0
