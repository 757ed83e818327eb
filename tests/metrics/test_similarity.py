"""Similarity of phrases by their words, and its cache."""

from __future__ import annotations

import numpy as np

from glamm_jax.metrics.similarity import CachedSimilarity, Similarity, WordSimilarity


def test_shared_words_over_all_words_without_articles():
    table = WordSimilarity()(["the red bus", "an a"], ["a bus", "the bus red", "a dog", "the"])
    np.testing.assert_allclose(table, [[2 / 3, 1, 0, 0], [0, 0, 0, 1]])
    assert WordSimilarity()([], ["a"]).shape == (0, 1)


class Counting:
    name = "counting"

    def __init__(self):
        self.pairs = []

    def __call__(self, some, others):
        self.pairs += [(a, b) for a in some for b in others]
        return np.array([[len(a) + 10.0 * len(b) for b in others] for a in some])


def test_a_cache_computes_every_pair_once_and_has_the_same_name():
    counting = Counting()
    cached = CachedSimilarity(counting)
    assert isinstance(cached, Similarity) and cached.name == "counting"
    np.testing.assert_array_equal(cached(["a", "bb"], ["c"]), [[11], [12]])
    np.testing.assert_array_equal(cached(["bb", "a"], ["ccc", "c"]), [[32, 12], [31, 11]])
    np.testing.assert_array_equal(cached(["a", "a"], ["c"]), [[11], [11]])
    assert cached([], ["c"]).shape == (0, 1)
    assert len(counting.pairs) == len(set(counting.pairs)) == 4
