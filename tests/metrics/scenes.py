"""Small grounded captions for the tests of metrics: boxes in an image of 8 x 10 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from glamm_jax.data.rle import encode
from glamm_jax.metrics.gcg import GroundedCaption

SIZE = (8, 10)
EMPTY = encode(np.zeros(SIZE, bool))


def box(left: int, width: int, size: tuple[int, int] = SIZE) -> dict[str, Any]:
    """Return a mask of some columns of the image."""
    mask = np.zeros(size, bool)
    mask[:, left : left + width] = True
    return encode(mask)


def caption(*pairs: tuple[str, Any], scores: tuple[float, ...] = ()) -> GroundedCaption:
    """Return a caption of phrases, each with a mask or None."""
    phrases = tuple(phrase for phrase, _ in pairs)
    masks = tuple(mask for _, mask in pairs if mask is not None)
    phrase_of = tuple(i for i, (_, mask) in enumerate(pairs) if mask is not None)
    return GroundedCaption(" and ".join(phrases), phrases, masks, phrase_of, scores)
