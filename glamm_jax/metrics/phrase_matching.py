"""Which phrases of a caption are right: the same words, whatever the article and the case.

"A red circle" names "the red circle", and no other; said twice, it names two of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from glamm_jax.metrics.iou import Mask, iou

ARTICLES = frozenset(("a", "an", "the", "another"))


class PhraseScores(NamedTuple):
    """How a caption's phrases compare with the true ones.

    Sums over captions give the scores of all: `sum_scores`.
    """

    num_predicted: int  # phrases of the answer
    num_reference: int  # phrases of the truth
    num_correct: int  # true phrases that the answer names
    iou_sum: float  # sum over ALL true phrases of the IoU of their masks; 0 where one is not named

    @property
    def recall(self) -> float:
        """Share of the true phrases that are named."""
        return self.num_correct / self.num_reference if self.num_reference else 1.0

    @property
    def precision(self) -> float:
        """Share of the phrases said that are true."""
        return (
            self.num_correct / self.num_predicted
            if self.num_predicted
            else float(not self.num_reference)
        )

    @property
    def phrases_right(self) -> float:
        """The stricter of recall and precision."""
        return min(self.recall, self.precision)

    @property
    def mask_iou(self) -> float:
        """Mean IoU over all true phrases."""
        return self.iou_sum / self.num_reference if self.num_reference else 1.0


def content_words(phrase: str) -> tuple[str, ...]:
    """The words of a phrase in lower case, without punctuation and articles in front."""
    found = re.findall(r"[a-z0-9]+", phrase.lower())
    while found and found[0] in ARTICLES:
        found = found[1:]
    return tuple(found)


def match_phrases(said: Sequence[str], true: Sequence[str]) -> list[int | None]:
    """For each true phrase the number of the one said with the same words; each is used once."""
    left = [content_words(phrase) for phrase in said]
    found: list[int | None] = []
    free = set(range(len(left)))
    for phrase in true:
        match = next((i for i in sorted(free) if left[i] == content_words(phrase)), None)
        free.discard(-1 if match is None else match)
        found.append(match)
    return found


def score_phrases(
    said: Sequence[tuple[str, Mask | None]], true: Sequence[tuple[str, Mask]]
) -> PhraseScores:
    """Phrases with their masks, of an answer and of the truth.

    Where several phrases have the same words they are matched in order.
    """
    found = match_phrases([phrase for phrase, _ in said], [phrase for phrase, _ in true])
    total = sum(
        iou(said[i][1], mask) for i, (_, mask) in zip(found, true, strict=True) if i is not None
    )
    right = sum(i is not None for i in found)
    return PhraseScores(len(said), len(true), right, float(total))


def sum_scores(scores: Sequence[PhraseScores]) -> PhraseScores:
    """The scores of many captions together: every phrase counts the same."""
    return PhraseScores(
        sum(each.num_predicted for each in scores),
        sum(each.num_reference for each in scores),
        sum(each.num_correct for each in scores),
        float(sum(each.iou_sum for each in scores)),
    )
