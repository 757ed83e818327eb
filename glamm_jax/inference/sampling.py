"""How a row chooses its next token: greedily, or by temperature and top-p with a seed of its own.

The settings are arrays, one value a row, so rows that differ in them share one compiled program.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from glamm_jax.errors import GLaMMError


class SamplingError(GLaMMError):
    """A setting that no distribution has. Names the setting and its range."""


class Sampling(NamedTuple):
    """Settings of every row. Build it with `Sampling.of`, which checks them."""

    temperature: Float[Array, "b"]  # 0 is greedy
    top_p: Float[Array, "b"]  # draw among the likeliest tokens that together reach this
    seed: UInt32[Array, "b"]

    @classmethod
    def create(
        cls,
        num_rows: int,
        temperature: float | Sequence[float] = 0.0,
        top_p: float | Sequence[float] = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> Sampling:
        """A value for all rows, or one for each.

        A row's answer follows from its prompt and its own settings alone, so equal prompts that
        are to be answered differently need different seeds.

        Raises: SamplingError for a number of values that is not the number of rows, a negative or
            infinite temperature, top_p outside (0, 1], a seed outside [0, 2**32).
        """
        heat, share = np.asarray(temperature, np.float32), np.asarray(top_p, np.float32)
        seeds = np.asarray(seed)
        for name, values in (("temperature", heat), ("top_p", share), ("seed", seeds)):
            if values.shape not in ((), (num_rows,)):
                raise SamplingError(f"{name}: one value, or one for each of {num_rows} rows: {values}")
        if not (np.isfinite(heat) & (heat >= 0)).all():
            raise SamplingError(f"temperature: at least 0, and finite: {heat}")
        if not ((share > 0) & (share <= 1)).all():
            raise SamplingError(f"top_p: above 0 and at most 1: {share}")
        whole = seeds.size == 0 or np.issubdtype(seeds.dtype, np.integer)
        if not (whole and ((seeds >= 0) & (seeds < 2**32)).all()):
            raise SamplingError(f"seed: a whole number from 0 to 2**32 - 1: {seeds}")
        settings = (heat, share, seeds.astype(np.uint32))
        return cls(*(jnp.asarray(np.broadcast_to(values, (num_rows,))) for values in settings))

    def check_rows(self, rows: int) -> None:
        """Raises: SamplingError when these are the settings of another number of rows."""
        if self.seed.shape != (rows,):
            raise SamplingError(f"settings for {len(self.seed)} rows, in a batch of {rows} rows")


def sample_tokens(
    logits: Float[Array, "b v"], sampling: Sampling, token_index: Int[Array, ""]
) -> Int[Array, "b"]:
    """Token `number` of every answer.

    It is drawn with fold_in(key(seed), number): neither the other rows nor the number of tokens
    chosen before in the same call have a say.
    """
    greedy = logits.argmax(-1)
    warm = sampling.temperature > 0
    return jax.lax.cond(
        warm.any(),
        lambda: jnp.where(warm, jax.vmap(_draw, (0, 0, None))(logits, sampling, token_index), greedy),
        lambda: greedy,
    )


def _draw(logits: Float[Array, "v"], sampling: Sampling, number: Int[Array, ""]) -> Int[Array, ""]:
    """One row; `sampling` holds scalars here."""
    scaled = logits / jnp.where(sampling.temperature > 0, sampling.temperature, 1)
    kept = scaled >= _least_likely(scaled, sampling.top_p)
    key = jax.random.fold_in(jax.random.key(sampling.seed), number)
    return (jnp.where(kept, scaled, -jnp.inf) + jax.random.gumbel(key, logits.shape)).argmax()


def _least_likely(scaled: Float[Array, "v"], top_p: Float[Array, ""]) -> Float[Array, ""]:
    """Smallest score of the nucleus: the likeliest tokens whose probabilities reach `top_p`."""
    descending = jnp.flip(jnp.sort(scaled))
    probabilities = jax.nn.softmax(descending)
    before = jnp.cumsum(probabilities) - probabilities
    # The first is always in; at 1 all are, however the sum is rounded.
    inside = (before < top_p) | (top_p >= 1)
    return jnp.where(inside, descending, jnp.inf).min()
