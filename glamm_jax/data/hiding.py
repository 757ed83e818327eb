"""Some words of the answers are hidden from the decoder, which must still predict them all.

Whoever has heard "a red" may guess the next word from what red things were before; whoever must do
without some of the words looks at the picture. Only inputs change, never what is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from glamm_jax.config import TokenConfig
from glamm_jax.data.rows import FILLER
from glamm_jax.types import Batch


def hide_words(batch: Batch, share: float, seed: Sequence[int], tokens: TokenConfig) -> Batch:
    """The batch with about this share of its answers' ordinary words embedded as zero.

    Tokens that the model must know ([SEG], the marks of phrases, the end) stay.
    """
    if share == 0:
        return batch
    known = [getattr(tokens, each.name) for each in fields(tokens)]
    lots = np.random.default_rng(seed).random(batch.target_ids.shape)
    hidden = batch.target_valid & (lots < share) & ~np.isin(batch.target_ids, known)
    rows, targets = np.nonzero(hidden)
    token_ids = batch.token_ids.copy()
    token_ids[rows, batch.target_positions[rows, targets] + 1] = FILLER
    return batch._replace(token_ids=token_ids)
