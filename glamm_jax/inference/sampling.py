"""Choice of the next token: greedy, or by temperature and top-p with one seed per row.

The settings are arrays with one value per row, so rows with different settings share a program.
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
    """A sampling setting is outside its range. The message names the setting and the range."""


class Sampling(NamedTuple):
    """Sampling settings of every row. `Sampling.create` checks them."""

    temperature: Float[Array, "b"]  # 0: greedy
    top_p: Float[Array, "b"]  # sample from the most likely tokens that together reach this
    seed: UInt32[Array, "b"]

    @classmethod
    def create(
        cls,
        num_rows: int,
        temperature: float | Sequence[float] = 0.0,
        top_p: float | Sequence[float] = 1.0,
        seed: int | Sequence[int] = 0,
    ) -> Sampling:
        """Check and broadcast settings, each one value for all rows or one per row.

        The answer of a row depends on its prompt and its own settings only, so equal prompts need
        different seeds to get different answers.

        Args:
            num_rows: rows of the batch.
            temperature: at least 0; 0 is greedy.
            top_p: in (0, 1]; 1 samples from all tokens.
            seed: in [0, 2**32).

        Raises:
            SamplingError: a setting is out of range or has another number of values.
        """
        temperatures, top_ps = np.asarray(temperature, np.float32), np.asarray(top_p, np.float32)
        seeds = np.asarray(seed)
        for name, values in (("temperature", temperatures), ("top_p", top_ps), ("seed", seeds)):
            if values.shape not in ((), (num_rows,)):
                raise SamplingError(
                    f"{name}: must be one value, or one for each of {num_rows} rows: {values}"
                )
        if not (np.isfinite(temperatures) & (temperatures >= 0)).all():
            raise SamplingError(f"temperature: must be at least 0 and finite: {temperatures}")
        if not ((top_ps > 0) & (top_ps <= 1)).all():
            raise SamplingError(f"top_p: must be above 0 and at most 1: {top_ps}")
        is_integer = seeds.size == 0 or np.issubdtype(seeds.dtype, np.integer)
        if not (is_integer and ((seeds >= 0) & (seeds < 2**32)).all()):
            raise SamplingError(f"seed: must be an integer from 0 to 2**32 - 1: {seeds}")
        settings = (temperatures, top_ps, seeds.astype(np.uint32))
        return cls(*(jnp.asarray(np.broadcast_to(values, (num_rows,))) for values in settings))

    def check_rows(self, num_rows: int) -> None:
        """Raise SamplingError unless these are the settings of `num_rows` rows."""
        if self.seed.shape != (num_rows,):
            raise SamplingError(
                f"sampling settings for {len(self.seed)} rows, but the batch has {num_rows} rows"
            )


def sample_tokens(
    logits: Float[Array, "b v"], sampling: Sampling, token_index: Int[Array, "b"]
) -> Int[Array, "b"]:
    """Choose the next token of every row.

    Token i of a row is sampled with the key fold_in(key(seed), i), independent of the other rows
    and of how many tokens one call generates.

    Args:
        logits: of the next token.
        sampling: settings of the rows.
        token_index: index of each row's token in its answer.
    """
    greedy = logits.argmax(-1)
    is_sampled = sampling.temperature > 0
    return jax.lax.cond(
        is_sampled.any(),
        lambda: jnp.where(is_sampled, jax.vmap(_sample_row)(logits, sampling, token_index), greedy),
        lambda: greedy,
    )


def _sample_row(
    logits: Float[Array, "v"], sampling: Sampling, token_index: Int[Array, ""]
) -> Int[Array, ""]:
    """Sample one row; `sampling` holds scalars here."""
    scaled = logits / jnp.where(sampling.temperature > 0, sampling.temperature, 1)
    in_nucleus = scaled >= _nucleus_threshold(scaled, sampling.top_p)
    key = jax.random.fold_in(jax.random.key(sampling.seed), token_index)
    return (jnp.where(in_nucleus, scaled, -jnp.inf) + jax.random.gumbel(key, logits.shape)).argmax()


def _nucleus_threshold(scaled: Float[Array, "v"], top_p: Float[Array, ""]) -> Float[Array, ""]:
    """Return the lowest logit of the most likely tokens whose probabilities reach `top_p`."""
    descending = jnp.flip(jnp.sort(scaled))
    probabilities = jax.nn.softmax(descending)
    preceding = jnp.cumsum(probabilities) - probabilities
    # The first token is always included; at top_p = 1 all are, however the sum is rounded.
    included = (preceding < top_p) | (top_p >= 1)
    return jnp.where(included, descending, jnp.inf).min()
