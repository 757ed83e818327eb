"""What a slice of the batch computes stays in it, in value and in communication."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from glamm_jax.models.fuse import place_features
from glamm_jax.nn.batch_slices import map_slices, take_in_slices
from tests.nn.slice_operations import Sizes, compile_operations

ROOT = Path(__file__).resolve().parents[2]


def test_an_index_counts_from_the_start_of_its_slice() -> None:
    x, index = jnp.arange(8.0).reshape(4, 2), jnp.array([1, 0, 0, 0, 1, 1])
    expected = jnp.concatenate([x[:2][index[:3]], x[2:][index[3:]]])
    np.testing.assert_array_equal(take_in_slices(x, index, 2), expected)


def test_features_are_placed_from_their_own_slice() -> None:
    embeddings, features = jnp.zeros((2, 3, 2)), jnp.arange(1.0, 9.0).reshape(4, 2)
    source = jnp.array([[-1, 0, 1], [1, -1, 0]])
    placed = place_features(embeddings, features, source, num_slices=2)
    expected = [[[0, 0], [1, 2], [3, 4]], [[7, 8], [0, 0], [5, 6]]]
    np.testing.assert_array_equal(placed, expected)


def test_gradients_reach_the_slice_that_was_indexed() -> None:
    x, weights = jnp.ones((4, 2)), jnp.arange(1.0, 13.0).reshape(6, 2)
    index = jnp.array([1, 1, 0, 0, 0, 0])
    gradient = jax.grad(lambda x: (take_in_slices(x, index, 2) * weights).sum())(x)
    np.testing.assert_array_equal(gradient, [[5, 6], [4, 6], [27, 30], [0, 0]])


def test_one_slice_is_the_function_itself() -> None:
    x = jnp.arange(3.0)
    assert map_slices(lambda y: y, 1, x) is x


def test_eight_devices_exchange_nothing() -> None:
    small = Sizes(tokens=16, patches=4, width=8, map_size=8, map_width=8, grid=4, grid_width=8)
    for name, (_, exchanged) in compile_operations(small).items():
        assert exchanged == [()], name  # the sum of the test


@pytest.mark.slow
def test_256_devices_need_no_more_memory_than_eight() -> None:
    compiled = []
    for devices in (8, 256):
        flags = f"--xla_force_host_platform_device_count={devices}"
        environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "tests.nn.slice_operations"]
        output = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        ).stdout
        compiled.append(json.loads(output))
    few, many = compiled
    for name, (temporaries, exchanged) in many.items():
        assert exchanged == [[]], name
        assert temporaries <= 1.05 * few[name][0], name
