"""Relations between the objects that a caption names: subject, predicate and object.

    links = (PhraseLink("a dog", (0,)), PhraseLink("the grass", (1,)))
    find_relations("a dog on the grass", links, 0, RelationOptions())[0].predicate      # "on"

Two linked phrases that follow each other in a sentence are related if words stand between them that
are neither a mere list ("and", ",") nor too many. The released code has only the links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from glamm_jax.grand.record import PhraseLink, Relation
from glamm_jax.grand.word_spans import word_spans

COPULAS = ("is", "are", "was", "were")
CONJUNCTIONS = frozenset(("and", "or", "but", "while", "with", "of"))


@dataclass(frozen=True)
class RelationOptions:
    """Which words relate two phrases.

    Attributes:
        enabled: find relations. released: off.
        max_words: between the phrases.
    """

    enabled: bool = True
    max_words: int = 5


class _LinkedSpan(NamedTuple):
    start: int
    end: int
    ids: tuple[int, ...]


def find_relations(
    caption: str, links: Sequence[PhraseLink], index: int, options: RelationOptions
) -> list[Relation]:
    """Return the relations that a caption states between linked phrases.

    Args:
        caption: the text.
        links: phrases and their objects; those that the caption does not have are ignored.
        index: number of the caption, for the relations.
        options: which words relate two phrases.
    """
    relations = []
    for first, second in pairwise(_linked_spans(caption, links)):
        predicate = _predicate(caption[first.end : second.start], options)
        if predicate and not set(first.ids) & set(second.ids):
            relations.append(Relation(first.ids, predicate, second.ids, index))
    return relations


def _linked_spans(caption: str, links: Sequence[PhraseLink]) -> list[_LinkedSpan]:
    """Return where linked phrases occur, without those inside others, in their order."""
    text = caption.lower()
    spans: list[_LinkedSpan] = []
    for link in sorted(links, key=lambda item: -len(item.phrase)):
        if not link.object_ids or not link.phrase:
            continue
        for start, end in word_spans(text, link.phrase):
            if all(end <= other.start or other.end <= start for other in spans):
                spans.append(_LinkedSpan(start, end, link.object_ids))
    return sorted(spans)


def _predicate(between: str, options: RelationOptions) -> str:
    """Return the words that relate two phrases; "" if they do not."""
    words = between.lower().split()
    if not words or len(words) > options.max_words or any(mark in between for mark in ".,;:!?"):
        return ""
    if words[0] in COPULAS:
        words = words[1:]
    if not words or words[0] in CONJUNCTIONS:
        return ""
    return " ".join(words)
