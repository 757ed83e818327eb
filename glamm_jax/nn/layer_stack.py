"""Stacked layers: scans over them (one compiled body for any depth), slices and groups of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from glamm_jax.config import Remat
from glamm_jax.nn.linear import Linear
from glamm_jax.parallel import is_sharded, platform

MAX_UNROLLED_BLOCKS = 4

Carry = TypeVar("Carry")
Blocks = TypeVar("Blocks", bound=nnx.Module)


def checkpoint_activations(body: Callable, remat: Remat, *, in_loop: bool = True) -> Callable:
    """Apply a rematerialization policy to the body of a layer.

    Args:
        body: the function of one layer.
        remat: what is saved for the backward pass: "none": all activations; "dots": the results of
            matrix products; "full": the input of the layer.
        in_loop: whether the body runs inside a loop. Outside of a loop XLA's common subexpression
            elimination would undo the recomputation, so it is prevented.
    """
    if remat == "none":
        return body
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if remat == "dots" else None
    return jax.checkpoint(body, policy=policy, prevent_cse=not in_loop)


def scan_blocks(
    apply: Callable[..., Carry],
    blocks: nnx.Module,
    carry: Carry,
    per_layer: Any = None,
    *,
    remat: Remat = "none",
    unroll: bool = False,
) -> Carry:
    """Compute carry = apply(block, carry, item) for each block of a stack, in order.

    Args:
        apply: the function of one block.
        blocks: a module whose leaves all have the same leading axis, one entry per block.
        carry: the input of the first block.
        per_layer: arrays with that leading axis (the layer's index, say); each block gets its
            slice as `item`.
        remat: see `checkpoint_activations`.
        unroll: compile without a loop, not even one of a single iteration. XLA's CPU backend
            differentiates a convolution inside a loop 15 to 30 times slower.

    On one CPU device a few blocks are always unrolled: what a loop saves for the backward pass is
    copied, which takes a quarter of a small model's time.
    """
    graph, state = nnx.split(blocks)
    count = jax.tree.leaves(state)[0].shape[0]
    on_cpu = platform() == "cpu" and not is_sharded()

    def body(carry: Carry, xs: tuple) -> tuple[Carry, None]:
        state, item = xs
        return apply(nnx.merge(graph, state), carry, item), None

    unroll = unroll or (on_cpu and count <= MAX_UNROLLED_BLOCKS)
    body = checkpoint_activations(body, remat, in_loop=not unroll)
    if not unroll:
        return jax.lax.scan(body, carry, (state, per_layer))[0]
    for i in range(count):
        carry, _ = body(carry, jax.tree.map(lambda x, i=i: x[i], (state, per_layer)))
    return carry


def scan_blocks_for_decoding(
    apply: Callable[..., Carry], blocks: nnx.Module, carry: Carry, per_layer: Any
) -> Carry:
    """Run `scan_blocks` for one token per row, where reading the weights dominates the time.

    On one CPU device every `Linear` keeps the stack of kernels, and gets the index of its layer
    instead of its slice; see `linear_from_stack`.

    Args:
        apply: as in `scan_blocks`.
        blocks: as in `scan_blocks`.
        carry: as in `scan_blocks`.
        per_layer: as in `scan_blocks`.
    """
    if platform() != "cpu" or is_sharded():
        return scan_blocks(apply, blocks, carry, per_layer)
    graph, state = nnx.split(blocks)
    kernels, rest = nnx.split_state(state, lambda path, _: path[-1] == "kernel", ...)

    def body(carry: Carry, xs: tuple) -> tuple[Carry, None]:
        index, rest, item = xs
        block = nnx.merge(graph, kernels, rest)
        for _, module in nnx.iter_modules(block):
            if isinstance(module, Linear):
                module.layer_index = index
        return apply(block, carry, item), None

    count = jax.tree.leaves(kernels)[0].shape[0]
    carry, _ = jax.lax.scan(body, carry, (jnp.arange(count), rest, per_layer))
    return carry


def group_blocks(blocks: Blocks, num_groups: int) -> Blocks:
    """Reshape the leading axis of a stack to [groups, blocks per group]."""
    graph, state = nnx.split(blocks)
    grouped = jax.tree.map(
        lambda x: x.reshape(num_groups, x.shape[0] // num_groups, *x.shape[1:]), state
    )
    return nnx.merge(graph, grouped)


def slice_blocks(blocks: Blocks, start: int, stop: int) -> Blocks:
    """Return consecutive blocks of a stack, as a stack.

    Args:
        blocks: the stack.
        start: index of the first block.
        stop: index after the last block.
    """
    graph, state = nnx.split(blocks)
    return nnx.merge(graph, jax.tree.map(lambda x: x[start:stop], state))


def unstack(blocks: Blocks, count: int) -> list[Blocks]:
    """Return the `count` blocks of a stack as single modules."""
    graph, state = nnx.split(blocks)
    return [nnx.merge(graph, jax.tree.map(lambda x, i=i: x[i], state)) for i in range(count)]
