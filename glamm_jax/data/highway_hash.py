"""HighwayHash of 64 bits with the key of riegeli, whose files have one of every chunk.

Source: J. Alakuijala, B. Cox, J. Wassenberg, "Fast keyed hash/pseudo-random function using SIMD
multiply and permute", 2016, arXiv:1612.06257; the key is two times "Riegeli/records\\n".
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit

_KEY = np.frombuffer(b"Riegeli/records\n" * 2, "<u8")
_MULTIPLIERS = np.array(
    [
        *(0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3),
        *(0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377),
    ],
    np.uint64,
).reshape(2, 4)
_SWAPPED_KEY = (_KEY >> np.uint64(32)) | (_KEY << np.uint64(32))
_INITIAL = np.stack(  # v0, v1, mul0, mul1
    [_MULTIPLIERS[0] ^ _KEY, _MULTIPLIERS[1] ^ _SWAPPED_KEY, *_MULTIPLIERS]
)


def riegeli_hash(data: bytes) -> int:
    """Return the hash of some bytes."""
    return int(_hash(np.frombuffer(data, np.uint8), _INITIAL.copy()))


@njit(cache=True, nogil=True)
@no_type_check
def _hash(data, state):
    """Return the hash of bytes; the state is v0, v1, mul0, mul1 with four numbers each."""
    rest = len(data) % 32
    end = len(data) - rest
    lanes = np.empty(4, np.uint64)
    for start in range(0, end, 32):
        _load(data, start, lanes)
        _update(state, lanes)
    if rest:
        _update_rest(state, data[end:], lanes)
    for _ in range(4):
        for i in range(4):
            value = state[0, i ^ 2]
            lanes[i] = (value >> np.uint64(32)) | (value << np.uint64(32))
        _update(state, lanes)
    return state[0, 0] + state[1, 0] + state[2, 0] + state[3, 0]


@njit(cache=True, nogil=True)
@no_type_check
def _load(data, start, lanes):
    """Read 32 bytes as four little-endian numbers."""
    for i in range(4):
        value = np.uint64(0)
        for j in range(8):
            value |= np.uint64(data[start + 8 * i + j]) << np.uint64(8 * j)
        lanes[i] = value


@njit(cache=True, nogil=True)
@no_type_check
def _update(state, lanes):
    """Mix 32 bytes into the state."""
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(4):
        state[1, i] += state[2, i] + lanes[i]
        state[2, i] ^= (state[1, i] & low) * (state[0, i] >> half)
        state[0, i] += state[3, i]
        state[3, i] ^= (state[0, i] & low) * (state[1, i] >> half)
    for source in (1, 0):
        for pair in (0, 2):
            _merge(state[source], state[1 - source], pair)


@njit(cache=True, nogil=True)
@no_type_check
def _merge(source, target, pair):
    """Add the permuted bytes of two numbers to two others."""
    v0, v1 = source[pair], source[pair + 1]
    target[pair] += (
        (((v0 & np.uint64(0xFF000000)) | (v1 & np.uint64(0xFF00000000))) >> np.uint64(24))
        | (((v0 & np.uint64(0xFF0000000000)) | (v1 & np.uint64(0xFF000000000000))) >> np.uint64(16))
        | (v0 & np.uint64(0xFF0000))
        | ((v0 & np.uint64(0xFF00)) << np.uint64(32))
        | ((v1 & np.uint64(0xFF00000000000000)) >> np.uint64(8))
        | (v0 << np.uint64(56))
    )
    target[pair + 1] += (
        (((v1 & np.uint64(0xFF000000)) | (v0 & np.uint64(0xFF00000000))) >> np.uint64(24))
        | (v1 & np.uint64(0xFF0000))
        | ((v1 & np.uint64(0xFF0000000000)) >> np.uint64(16))
        | ((v1 & np.uint64(0xFF00)) << np.uint64(24))
        | ((v0 & np.uint64(0xFF000000000000)) >> np.uint64(8))
        | ((v1 & np.uint64(0xFF)) << np.uint64(48))
        | (v0 & np.uint64(0xFF00000000000000))
    )


@njit(cache=True, nogil=True)
@no_type_check
def _update_rest(state, rest, lanes):
    """Update with the last bytes, fewer than 32."""
    size = len(rest)
    tail = size % 4
    count, other = np.uint64(size), np.uint64(32 - size)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(4):
        state[0, i] += (count << half) + count
        first, second = state[1, i] & low, state[1, i] >> half
        first = ((first << count) | (first >> other)) & low
        second = ((second << count) | (second >> other)) & low
        state[1, i] = first | (second << half)
    packet = np.zeros(32, np.uint8)
    whole = size - tail
    packet[:whole] = rest[:whole]
    if size & 16:
        packet[28:32] = rest[size - 4 :]
    elif tail:
        packet[16] = rest[whole]
        packet[17] = rest[whole + (tail >> 1)]
        packet[18] = rest[whole + tail - 1]
    _load(packet, 0, lanes)
    _update(state, lanes)
