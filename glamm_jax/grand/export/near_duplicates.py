"""Search for 64-bit hashes that differ in few bits, for near-duplicate images.

The bits are cut into one group more than the allowed distance. Two hashes within the distance have
at least one group that is equal in both, so only hashes that share a group are compared. With a
million hashes a search takes some ten microseconds at distance 4; memory is 8 bytes for each hash
and group.
"""

from __future__ import annotations

from array import array

import numpy as np

BITS = 64
MAX_DISTANCE = 15
# Shorter lists are compared by a loop, which is faster than numpy for them.
SHORT_LIST = 24


class HashIndex:
    """A growing set of 64-bit hashes that is searched by Hamming distance.

    Args:
        distance: largest number of different bits of a match, at most `MAX_DISTANCE`.
    """

    def __init__(self, distance: int):
        if not 0 <= distance <= MAX_DISTANCE:
            raise ValueError(f"distance {distance}: must be between 0 and {MAX_DISTANCE}")
        self.distance = distance
        ends = [BITS * (i + 1) // (distance + 1) for i in range(distance + 1)]
        starts = [0, *ends[:-1]]
        self._groups: list[tuple[int, int, dict[int, array[int]]]] = [
            (start, (1 << (end - start)) - 1, {}) for start, end in zip(starts, ends, strict=True)
        ]
        self._num_hashes = 0

    def __len__(self) -> int:
        return self._num_hashes

    def add(self, value: int) -> None:
        """Add a hash."""
        self._num_hashes += 1
        for start, mask, lists in self._groups:
            key = (value >> start) & mask
            hashes = lists.get(key)
            if hashes is None:
                lists[key] = array("Q", (value,))
            else:
                hashes.append(value)

    def has_match(self, value: int) -> bool:
        """Return whether a hash within the distance was added."""
        distance = self.distance
        for start, mask, lists in self._groups:
            hashes = lists.get((value >> start) & mask)
            if hashes is None:
                continue
            if len(hashes) <= SHORT_LIST:
                if any((other ^ value).bit_count() <= distance for other in hashes):
                    return True
            else:
                others = np.frombuffer(hashes, np.uint64)
                differences = np.bitwise_count(others ^ np.uint64(value))
                if differences.min() <= distance:
                    return True
        return False
