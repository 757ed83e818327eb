"""The index of hashes against comparison of all pairs."""

from __future__ import annotations

import random

import pytest

from glamm_jax.grand.export.near_duplicates import MAX_DISTANCE, HashIndex


@pytest.mark.parametrize("distance", [0, 1, 4, 7, 10, MAX_DISTANCE])
def test_the_index_finds_what_all_pairs_find(distance: int) -> None:
    rng = random.Random(distance)
    index, hashes, num_matches = HashIndex(distance), [], 0
    centers = [rng.getrandbits(64) for _ in range(8)] + [0, (1 << 64) - 1]
    for _ in range(600):
        value = rng.choice(centers)
        for bit in rng.sample(range(64), rng.randrange(20)):
            value ^= 1 << bit
        expected = any((value ^ other).bit_count() <= distance for other in hashes)
        assert index.has_match(value) == expected
        num_matches += expected
        if not expected:
            hashes.append(value)
            index.add(value)
    assert len(index) == len(hashes) and num_matches > 5


def test_long_lists() -> None:
    # All share their upper bits, so one group has all of them.
    index = HashIndex(2)
    for i in range(500):
        index.add(0b111 << (3 * (i % 7)) | i << 40)
    assert index.has_match(0b110 | 7 << 40)
    assert not index.has_match(0xFFFF)


def test_impossible_distances() -> None:
    for distance in (-1, MAX_DISTANCE + 1):
        with pytest.raises(ValueError, match="between 0 and"):
            HashIndex(distance)
