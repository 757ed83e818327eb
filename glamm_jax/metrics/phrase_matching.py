"""Exact matching of phrases: the same words, regardless of articles and case.

"A red circle" matches "the red circle". Every phrase is used for one match at most.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from glamm_jax.metrics.iou import Mask, iou

ARTICLES = frozenset(("a", "an", "the", "another"))


class PhraseScores(NamedTuple):
    """Comparison of the phrases of a caption with its reference phrases.

    The counts of several captions can be added: `sum_scores`.

    Attributes:
        num_predicted: number of predicted phrases.
        num_reference: number of reference phrases.
        num_correct: number of reference phrases that are matched.
        iou_sum: sum of the mask IoU over all reference phrases; 0 for one that is not matched.
    """

    num_predicted: int
    num_reference: int
    num_correct: int
    iou_sum: float

    @property
    def recall(self) -> float:
        """Share of the reference phrases that are matched."""
        return self.num_correct / self.num_reference if self.num_reference else 1.0

    @property
    def precision(self) -> float:
        """Share of the predicted phrases that are matched."""
        return (
            self.num_correct / self.num_predicted
            if self.num_predicted
            else float(not self.num_reference)
        )

    @property
    def mask_iou(self) -> float:
        """Mean IoU over all reference phrases."""
        return self.iou_sum / self.num_reference if self.num_reference else 1.0


def content_words(phrase: str) -> tuple[str, ...]:
    """Return the words of a phrase in lower case, without punctuation and leading articles."""
    words = re.findall(r"[a-z0-9]+", phrase.lower())
    while words and words[0] in ARTICLES:
        words = words[1:]
    return tuple(words)


def match_phrases(predictions: Sequence[str], references: Sequence[str]) -> list[int | None]:
    """Return for each reference the index of the prediction with the same words, or None.

    Every prediction is used once at most; predictions with the same words are used in their order.
    """
    words = [content_words(phrase) for phrase in predictions]
    unused = set(range(len(words)))
    matches: list[int | None] = []
    for phrase in references:
        match = next((i for i in sorted(unused) if words[i] == content_words(phrase)), None)
        unused.discard(-1 if match is None else match)
        matches.append(match)
    return matches


def score_phrases(
    predictions: Sequence[tuple[str, Mask | None]], references: Sequence[tuple[str, Mask]]
) -> PhraseScores:
    """Compare the phrases and masks of an answer with those of its reference."""
    matches = match_phrases(
        [phrase for phrase, _ in predictions], [phrase for phrase, _ in references]
    )
    iou_sum = sum(
        iou(predictions[i][1], mask)
        for i, (_, mask) in zip(matches, references, strict=True)
        if i is not None
    )
    num_correct = sum(i is not None for i in matches)
    return PhraseScores(len(predictions), len(references), num_correct, float(iou_sum))


def sum_scores(scores: Sequence[PhraseScores]) -> PhraseScores:
    """Return the sums over several captions, in which every phrase has the same weight."""
    return PhraseScores(
        sum(item.num_predicted for item in scores),
        sum(item.num_reference for item in scores),
        sum(item.num_correct for item in scores),
        float(sum(item.iou_sum for item in scores)),
    )
