"""Similarity of phrases, which decides together with the masks whether a phrase is recalled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from glamm_jax.metrics.phrase_matching import content_words


@runtime_checkable
class Similarity(Protocol):
    """Compares phrases.

    Attributes:
        name: shown in reports, because recall depends on the similarity.
    """

    name: str

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Return the similarity of all pairs of phrases; that of equal phrases is 1."""
        ...


class WordSimilarity:
    """Dice coefficient of the words of two phrases: 2 |a and b| / (|a| + |b|), in 0 to 1.

    Leading articles are ignored. It needs no model and is deterministic. "the red bus" and "a bus"
    have a similarity of 2/3; it knows no synonyms. Two phrases without words have a similarity
    of 1.
    """

    name = "words"

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Return the similarity of all pairs of phrases."""
        rows = [Counter(content_words(phrase)) for phrase in some]
        columns = [Counter(content_words(phrase)) for phrase in others]
        table = np.ones((len(rows), len(columns)))
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                if total := row.total() + column.total():
                    table[i, j] = 2 * (row & column).total() / total
        return table


class CachedSimilarity:
    """Caches a similarity, which computes every pair of phrases once."""

    def __init__(self, similarity: Similarity):
        self.name = similarity.name
        self._similarity = similarity
        self._cache: dict[tuple[str, str], float] = {}

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Return the similarity of all pairs of phrases."""
        new = [(a, b) for a in some for b in others if (a, b) not in self._cache]
        if new:
            rows = list(dict.fromkeys(a for a, _ in new))
            columns = list(dict.fromkeys(b for _, b in new))
            table = self._similarity(rows, columns)
            pairs = ((a, b) for a in rows for b in columns)
            self._cache.update(zip(pairs, table.ravel().tolist(), strict=True))
        table = [[self._cache[a, b] for b in others] for a in some]
        return np.array(table, np.float64).reshape(len(some), len(others))
