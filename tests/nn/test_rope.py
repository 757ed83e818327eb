"""Rotary positions are rotations, and the angle is the distance between two tokens."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from glamm_jax.nn.rope import apply_rotary, inverse_frequencies, rotary_tables

THETA, WIDTH = 10000.0, 8


def _rotated(x: np.ndarray, positions: np.ndarray) -> np.ndarray:
    cos, sin = rotary_tables(jnp.asarray(positions), WIDTH, THETA, jnp.float32)
    return np.asarray(apply_rotary(jnp.asarray(x), cos, sin))


def _noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


def test_pairs_half_a_head_apart_are_turned_by_position_times_frequency() -> None:
    x, positions = _noise(1, 3, 2, WIDTH), np.array([[0, 5, 700]])
    half = WIDTH // 2
    angles = positions[..., None] * THETA ** (-2.0 * np.arange(half) / WIDTH)
    turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)[:, :, None]
    expected = np.concatenate([turned.real, turned.imag], -1)
    np.testing.assert_allclose(_rotated(x, positions), expected, rtol=1e-4, atol=1e-4)


def test_position_zero_changes_nothing() -> None:
    x = _noise(1, 1, 2, WIDTH)
    np.testing.assert_array_equal(_rotated(x, np.array([[0]])), x)


def test_scores_depend_on_the_distance_only() -> None:
    q, k = _noise(2, 1, 1, 1, WIDTH)

    def score(i: int, j: int) -> float:
        return float((_rotated(q, np.array([[i]])) * _rotated(k, np.array([[j]]))).sum())

    np.testing.assert_allclose(score(9, 4), score(105, 100), rtol=1e-4)
    assert abs(score(9, 4) - score(9, 5)) > 1e-3


def test_frequencies_are_the_checkpoint_buffer() -> None:
    expected = 1.0 / THETA ** (np.arange(0, WIDTH, 2, dtype=np.float64) / WIDTH)
    np.testing.assert_allclose(inverse_frequencies(WIDTH, THETA), expected, rtol=1e-6)


def test_bfloat16_tables_are_cast_after_they_are_made() -> None:
    positions = jnp.array([[1023]])
    exact, _ = rotary_tables(positions, WIDTH, THETA, jnp.float32)
    half, _ = rotary_tables(positions, WIDTH, THETA, jnp.bfloat16)
    np.testing.assert_array_equal(half, exact.astype(jnp.bfloat16))
