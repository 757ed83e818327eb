"""The next token: greedy, or sampled by its probability, from the nucleus only."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glamm_jax.inference.sampling import Sampling, SamplingError, sample_tokens

PROBABILITIES = np.array([0.05, 0.5, 0.15, 0.3])
ROWS = 4000


def sampled(token_index: int = 0, **settings: Any) -> np.ndarray:
    """One token a row, each row with its own seed."""
    logits = jnp.broadcast_to(jnp.log(jnp.asarray(PROBABILITIES))[None], (ROWS, 4))
    sampling = Sampling.create(ROWS, seed=range(ROWS), **settings)
    return np.asarray(jax.jit(sample_tokens)(logits, sampling, jnp.full(len(logits), token_index)))


def frequencies(**settings: Any) -> np.ndarray:
    return np.bincount(sampled(**settings), minlength=4) / ROWS


# Four standard deviations of a frequency of 0.5 among 4000.
CLOSE = 4 * 0.5 / np.sqrt(ROWS)


def test_temperature_0_takes_the_likeliest() -> None:
    assert (sampled(temperature=0.0) == 1).all()


def test_temperature_1_draws_as_the_probabilities_say() -> None:
    np.testing.assert_allclose(frequencies(temperature=1.0), PROBABILITIES, atol=CLOSE)


def test_temperature_sharpens_and_flattens() -> None:
    for temperature in (0.5, 3.0):
        expected = PROBABILITIES ** (1 / temperature)
        actual = frequencies(temperature=temperature)
        np.testing.assert_allclose(actual, expected / expected.sum(), atol=CLOSE)


@pytest.mark.parametrize(
    ("top_p", "nucleus"), [(0.4, [1]), (0.6, [1, 3]), (0.79, [1, 3]), (0.9, [1, 2, 3])]
)
def test_only_the_fewest_tokens_that_reach_top_p_are_drawn(
    top_p: float, nucleus: list[int]
) -> None:
    actual = frequencies(temperature=1.0, top_p=top_p)
    expected = np.where(np.isin(np.arange(4), nucleus), PROBABILITIES, 0)
    np.testing.assert_allclose(actual, expected / expected.sum(), atol=CLOSE)
    assert set(np.flatnonzero(actual)) == set(nucleus)


def test_each_token_of_an_answer_is_a_new_draw() -> None:
    first, second = (sampled(number, temperature=1.0) for number in (0, 1))
    assert 0.3 < (first == second).mean() < 0.45  # the sum of the squares is 0.365


def test_rows_may_differ_in_everything() -> None:
    logits = jnp.log(jnp.asarray(PROBABILITIES))[None]
    settings = {"temperature": (0.0, 1.0, 5.0), "top_p": (1.0, 0.5, 1.0), "seed": (1, 2, 3)}
    together = sample_tokens(
        jnp.tile(logits, (3, 1)), Sampling.create(3, **settings), jnp.full(3, 2)
    )
    for row in range(3):
        own = {name: values[row] for name, values in settings.items()}
        assert sample_tokens(logits, Sampling.create(1, **own), jnp.full(1, 2))[0] == together[row]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -0.1}, "temperature: must be at least 0"),
        ({"temperature": float("inf")}, "temperature: must be at least 0 and finite"),
        ({"temperature": (0.0, float("nan"))}, "temperature: must be at least 0 and finite"),
        ({"top_p": 0.0}, "top_p: must be above 0"),
        ({"top_p": 1.5}, "top_p: must be above 0 and at most 1"),
        ({"seed": -1}, "seed: must be an integer"),
        ({"seed": 2**32}, "seed: must be an integer"),
        ({"seed": (1, 2, 3)}, "seed: must be one value, or one for each of 2 rows"),
        ({"temperature": (1.0,)}, "temperature: must be one value, or one for each of 2 rows"),
    ],
)
def test_settings_of_no_distribution_are_named(settings: dict, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        Sampling.create(2, **settings)
