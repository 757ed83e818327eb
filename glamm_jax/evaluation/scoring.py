"""Predictions against truths: what each benchmark hands to which metrics.

An item without a prediction is left to the metrics, which name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from glamm_jax.evaluation.item import Item, Prediction, RunLengths
from glamm_jax.metrics.gcg import GroundedCaption, score_gcg
from glamm_jax.metrics.iou import iou
from glamm_jax.metrics.phrases import score_phrases, sum_scores, words
from glamm_jax.metrics.scored import Mode, Scored
from glamm_jax.metrics.similarity import Similarity, WordSimilarity


@dataclass(frozen=True)
class Judges:
    """Who judges texts. similarity: of phrases, for mask recall."""

    similarity: Similarity = field(default_factory=WordSimilarity)


def score_grounded_captions(
    items: Sequence[Item], said: Mapping[str, Prediction], mode: Mode, judges: Judges
) -> Scored:
    """AP, mIoU, recall and the figures of captions; strict: also how many phrases are right."""
    given = {name: _as_said(each) for name, each in said.items()}
    true = {item.id: _as_true(item) for item in items}
    scored = score_gcg(given, true, judges.similarity, mode)
    return scored if mode == "compat" else scored | _phrases(items, said)


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


def _as_said(prediction: Prediction) -> GroundedCaption:
    return GroundedCaption(
        prediction.text,
        prediction.phrases,
        prediction.masks,
        prediction.phrase_of,
        prediction.scores,
    )


def _as_true(item: Item) -> GroundedCaption:
    caption = item.true_texts[0] if item.true_texts else ""
    count = len(item.true_phrases)
    owners = tuple(i if i < count else -1 for i in range(len(item.true_masks)))
    return GroundedCaption(caption, item.true_phrases, item.true_masks, owners)


def _is_exact(item: Item, prediction: Prediction | None) -> bool:
    return prediction is not None and words(prediction.text) in [*map(words, item.true_texts)]


def _phrases(items: Sequence[Item], said: Mapping[str, Prediction]) -> Scored:
    """The stricter of recall and precision of phrases, and the mean IoU over the true ones."""
    scores = {
        item.id: score_phrases(
            _with_masks(said[item.id]) if item.id in said else [],
            [*zip(item.true_phrases, item.true_masks, strict=False)],
        )
        for item in items
    }
    total = sum_scores([*scores.values()])
    each = {
        name: {"phrases_named": float(x.right), "phrases": float(x.true), "phrase_iou": x.iou}
        for name, x in scores.items()
    }
    figures = {"phrases_right": total.phrases_right, "phrase_mask_iou": total.mask_iou}
    return Scored(figures, each, {"phrase_mask_iou": ("phrase_iou", "phrases")})


def _with_masks(prediction: Prediction) -> list[tuple[str, RunLengths | None]]:
    """Every phrase with the first of its masks."""
    first: dict[int, RunLengths] = {}
    for mask, owner in zip(prediction.masks, prediction.phrase_of, strict=True):
        first.setdefault(owner, mask)
    return [(phrase, first.get(i)) for i, phrase in enumerate(prediction.phrases)]


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
