"""Scanning a stack is running its blocks one after another."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.nn.layer_stack import group_blocks, scan_blocks, slice_blocks, unstack
from glamm_jax.nn.linear import Linear

DEPTH, WIDTH = 6, 4
# Values are of order 1, some cancel to 1e-3: a loop and single operations round tanh differently.
ROUNDING = {"rtol": 1e-6, "atol": 5e-7}


def _blocks() -> Linear:
    return Linear(WIDTH, WIDTH, ("embed", "mlp"), rngs=nnx.Rngs(0), stack=(DEPTH,))


def _apply(block: Linear, x: jax.Array, layer: jax.Array | None) -> jax.Array:
    y = jnp.tanh(block(x))
    return y if layer is None else y + layer


def _input() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((3, WIDTH), dtype=np.float32))


def _unrolled(blocks: Linear, x: jax.Array, offsets: jax.Array) -> jax.Array:
    for kernel, bias, offset in zip(blocks.kernel[...], blocks.bias[...], offsets, strict=True):
        x = jnp.tanh(x @ kernel + bias[None]) + offset
    return x


@pytest.mark.parametrize("remat", ["none", "full", "dots"])
def test_scan_runs_every_block_in_order_and_so_does_its_gradient(remat: str) -> None:
    blocks, x, offsets = _blocks(), _input(), jnp.arange(DEPTH, dtype=jnp.float32)

    def scanned(x: jax.Array) -> jax.Array:
        return scan_blocks(_apply, blocks, x, offsets, remat=remat).sum()

    def unrolled(x: jax.Array) -> jax.Array:
        return _unrolled(blocks, x, offsets).sum()

    value, gradient = jax.value_and_grad(scanned)(x)
    expected, expected_gradient = jax.value_and_grad(unrolled)(x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-6)


def test_slices_of_a_stack_run_after_each_other_are_the_whole_stack() -> None:
    blocks, x = _blocks(), _input()
    whole = scan_blocks(_apply, blocks, x)
    first = scan_blocks(_apply, slice_blocks(blocks, 0, 2), x)
    np.testing.assert_allclose(
        scan_blocks(_apply, slice_blocks(blocks, 2, DEPTH), first), whole, **ROUNDING
    )


def test_blocks_taken_out_of_a_stack_run_one_by_one_are_the_whole_stack() -> None:
    blocks, x = _blocks(), _input()
    whole = scan_blocks(_apply, blocks, x)
    for block in unstack(blocks, DEPTH):
        x = _apply(block, x, None)
    np.testing.assert_allclose(x, whole, **ROUNDING)


def test_a_stack_of_groups_holds_the_same_blocks_in_the_same_order() -> None:
    blocks = _blocks()
    groups = group_blocks(blocks, 2)
    assert groups.kernel.shape == (2, 3, WIDTH, WIDTH)
    np.testing.assert_array_equal(groups.kernel[...][1, 0], blocks.kernel[...][3])

    def group(blocks: Linear, x: jax.Array, _: None) -> jax.Array:
        return scan_blocks(_apply, blocks, x)

    np.testing.assert_allclose(
        scan_blocks(group, groups, _input()), scan_blocks(_apply, blocks, _input()), **ROUNDING
    )
