"""Predictions against truths: what each benchmark hands to which metrics.

An item without a prediction is left to the metrics, which name it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from glamm_jax.data import rle
from glamm_jax.evaluation.item import Item, Prediction, RunLengths
from glamm_jax.evaluation.llm_judge import Review, ReviewCase, score_reviews
from glamm_jax.metrics.captions import score_captions
from glamm_jax.metrics.gcg import GroundedCaption, score_gcg
from glamm_jax.metrics.phrase_grounding import score_grounding
from glamm_jax.metrics.phrase_matching import content_words, score_phrases, sum_scores
from glamm_jax.metrics.refseg import score_refseg
from glamm_jax.metrics.result import MetricResult, Mode
from glamm_jax.metrics.similarity import Similarity, WordSimilarity

Predictions = Mapping[str, Prediction]
FREE = "free "  # stands before the figures of free-running answers


@dataclass(frozen=True)
class TextScorers:
    """Who judges texts.

    similarity: of phrases, for mask recall. captions: the figures of captions, which need Java; or
    none. review: compares the answers of a conversation with the reference's; or nobody.
    """

    similarity: Similarity = field(default_factory=WordSimilarity)
    captions: Sequence[str] = ()
    review: Callable[[Sequence[ReviewCase]], list[Review]] | None = None


def score_grounded_captions(
    items: Sequence[Item], said: Predictions, mode: Mode, judges: TextScorers
) -> MetricResult:
    """AP, mIoU, recall and the figures of captions; strict: also how many phrases are right."""
    true = {item.id: _as_true(item) for item in items}
    scored = score_gcg(_as_said(said), true, judges.similarity, mode)
    scored |= _captions(items, said, mode, judges)
    return scored if mode == "compat" else scored | _phrases(items, said)


def score_grounded_phrases(
    items: Sequence[Item], said: Predictions, mode: Mode, judges: TextScorers
) -> MetricResult:
    """mIoU, and recall at 0.5."""
    return score_grounding(_as_said(said), {item.id: _as_true(item) for item in items}, mode)


def score_referring(
    items: Sequence[Item], said: Predictions, mode: Mode, judges: TextScorers
) -> MetricResult:
    """cIoU and gIoU of the teacher-forced conversations, as the original and the paper have them,
    and the same of free-running answers, a sentence each.
    """
    forced = [item for item in items if item.history]
    free = [item for item in items if not item.history]
    scored = _referring(forced, said, mode) if forced else MetricResult({})
    if not free:
        return scored
    return scored | _renamed(_referring(free, said, mode), lambda name: FREE + name)


def score_texts(
    items: Sequence[Item], said: Predictions, mode: Mode, judges: TextScorers
) -> MetricResult:
    """The figures of captions, and the share that is word for word a true one."""
    each = {item.id: {"exact": float(_is_exact(item, said.get(item.id)))} for item in items}
    exact = [columns["exact"] for columns in each.values()]
    figures = {"exact": float(np.mean(exact))} if exact else {}
    return _captions(items, said, mode, judges) | MetricResult(figures, each)


def score_conversation(
    items: Sequence[Item], said: Predictions, mode: Mode, judges: TextScorers
) -> MetricResult:
    """What a judge gives the answers, over what it gives the references."""
    if judges.review is None:
        return score_texts(items, said, mode, judges)
    cases = [
        ReviewCase(
            item.id,
            item.metadata.get("category", "conversation"),
            item.prompt,
            item.metadata.get("context", ""),
            item.reference_texts[0] if item.reference_texts else "",
            said[item.id].text if item.id in said else "",
        )
        for item in items
    ]
    return score_reviews(cases, judges.review(cases), mode)


# ---------------------------------------------------------------------------------- helpers


def _captions(
    items: Sequence[Item], said: Predictions, mode: Mode, judges: TextScorers
) -> MetricResult:
    if not judges.captions:
        return MetricResult({})
    true = {item.id: item.reference_texts for item in items if item.reference_texts}
    texts = {name: each.text for name, each in said.items() if name in true}
    return score_captions(texts, true, judges.captions, mode=mode)


def _referring(items: Sequence[Item], said: Predictions, mode: Mode) -> MetricResult:
    given = {}
    for item in items:
        if item.id in said:
            masks = said[item.id].masks
            # What is said behind a conversation with known answers is not asked for.
            given[item.id] = masks[: len(item.reference_masks)] if item.history else masks
    twice = mode == "compat"
    true = {item.id: _without_twice(item) if twice else item.reference_masks for item in items}
    return score_refseg(given, true, mode)


def _without_twice(item: Item) -> tuple[RunLengths, ...]:
    """The true masks as the original counts them (trap 22)."""
    if not item.reference_overlaps:
        return item.reference_masks
    return tuple(
        mask if twice is None else rle.encode(rle.decode(mask) & ~rle.decode(twice))
        for mask, twice in zip(item.reference_masks, item.reference_overlaps, strict=True)
    )


def _renamed(scored: MetricResult, rename: Callable[[str], str]) -> MetricResult:
    """The same under other names of figures and columns."""
    return replace(
        scored,
        scores={rename(name): value for name, value in scored.scores.items()},
        each={
            item: {rename(name): value for name, value in columns.items()}
            for item, columns in scored.per_item.items()
        },
        ratios={
            rename(name): (rename(above), rename(below))
            for name, (above, below) in scored.ratios.items()
        },
    )


def _as_said(said: Predictions) -> dict[str, GroundedCaption]:
    return {
        name: GroundedCaption(x.text, x.phrases, x.masks, x.phrase_of, x.scores)
        for name, x in said.items()
    }


def _as_true(item: Item) -> GroundedCaption:
    caption = item.reference_texts[0] if item.reference_texts else ""
    count = len(item.reference_phrases)
    owners = tuple(i if i < count else -1 for i in range(len(item.reference_masks)))
    return GroundedCaption(caption, item.reference_phrases, item.reference_masks, owners)


def _is_exact(item: Item, prediction: Prediction | None) -> bool:
    return prediction is not None and content_words(prediction.text) in [
        *map(content_words, item.reference_texts)
    ]


def _phrases(items: Sequence[Item], said: Predictions) -> MetricResult:
    """The stricter of recall and precision of phrases, and the mean IoU over the true ones."""
    scores = {
        item.id: score_phrases(
            _with_masks(said[item.id], item) if item.id in said else [],
            [*zip(item.reference_phrases, item.reference_masks, strict=False)],
        )
        for item in items
    }
    total = sum_scores([*scores.values()])
    each = {
        name: {
            "phrases_named": float(x.num_correct),
            "phrases": float(x.num_reference),
            "phrase_iou": x.iou_sum,
        }
        for name, x in scores.items()
    }
    figures = {"phrases_right": total.min_precision_recall, "phrase_mask_iou": total.mask_iou}
    return MetricResult(figures, each, {"phrase_mask_iou": ("phrase_iou", "phrases")})


def _with_masks(prediction: Prediction, item: Item) -> list[tuple[str, RunLengths | None]]:
    """Every phrase with the first of its masks; one of another size than the true ones is none."""
    sizes = {tuple(mask["size"]) for mask in item.reference_masks}
    first: dict[int, RunLengths] = {}
    for mask, owner in zip(prediction.masks, prediction.phrase_of, strict=True):
        if {tuple(mask["size"])} == sizes:
            first.setdefault(owner, mask)
    return [(phrase, first.get(i)) for i, phrase in enumerate(prediction.phrases)]
