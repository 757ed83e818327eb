"""How alike two phrases are: what decides, beside the masks, whether a true phrase was found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from glamm_jax.metrics.phrase_matching import content_words


@runtime_checkable
class Similarity(Protocol):
    """Compares phrases; its name goes into reports, since recall depends on who judged."""

    name: str

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Similarity of each of some phrases with each of the others; 1 is the same."""
        ...


class WordSimilarity:
    """Shared words over all words, articles in front aside: 2 |a and b| / (|a| + |b|), in 0 to 1.

    It needs no model and always says the same. "the red bus" and "a bus" are 2/3 alike; that a bus
    is a coach it does not know. Two phrases without words are the same.
    """

    name = "words"

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Similarity of each of some phrases with each of the others."""
        rows = [Counter(content_words(phrase)) for phrase in some]
        columns = [Counter(content_words(phrase)) for phrase in others]
        table = np.ones((len(rows), len(columns)))
        for i, one in enumerate(rows):
            for j, other in enumerate(columns):
                if total := one.total() + other.total():
                    table[i, j] = 2 * (one & other).total() / total
        return table


class CachedSimilarity:
    """A similarity that is asked once for every pair of phrases."""

    def __init__(self, similarity: Similarity):
        self.name = similarity.name
        self._similarity = similarity
        self._known: dict[tuple[str, str], float] = {}

    def __call__(
        self, some: Sequence[str], others: Sequence[str]
    ) -> Float[np.ndarray, "some others"]:
        """Similarity of each of some phrases with each of the others."""
        new = [(a, b) for a in some for b in others if (a, b) not in self._known]
        rows, columns = (
            (list(dict.fromkeys(each)) for each in zip(*new, strict=True)) if new else ([], [])
        )
        if new:
            table = self._similarity(rows, columns)
            pairs = ((a, b) for a in rows for b in columns)
            self._known.update(zip(pairs, table.ravel().tolist(), strict=True))
        table = [[self._known[a, b] for b in others] for a in some]
        return np.array(table, np.float64).reshape(len(some), len(others))
