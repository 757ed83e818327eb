"""Scanning over stacked layers: one compiled body, whatever the depth."""

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
    """What the backward pass keeps of a layer: all, the matrix products' results, its input.

    Outside of a loop XLA would find that the forward pass has computed the same, and keep that.
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
    """carry = apply(block, carry, layer) for each block of a stack, in order.

    `blocks` is a module whose every leaf has the same leading axis; `per_layer` a tree of arrays
    with that leading axis (the layer's index, say), sliced alongside and handed on. `unroll`
    leaves no loop, not even one of a single turn: XLA's CPU backend differentiates a convolution
    inside one 15 to 30 times slower. There, a few blocks are never looped over: what a loop keeps
    for the backward pass is copied, a quarter of a small model's time.
    """
    graph, state = nnx.split(blocks)
    count = jax.tree.leaves(state)[0].shape[0]
    on_cpu = platform() == "cpu" and not is_sharded()

    def body(carry: Carry, item: tuple) -> tuple[Carry, None]:
        state, layer = item
        return apply(nnx.merge(graph, state), carry, layer), None

    unroll = unroll or (on_cpu and count <= MAX_UNROLLED_BLOCKS)
    body = checkpoint_activations(body, remat, in_loop=not unroll)
    if not unroll:
        return jax.lax.scan(body, carry, (state, per_layer))[0]
    for i in range(count):
        carry, _ = body(carry, jax.tree.map(lambda x, i=i: x[i], (state, per_layer)))
    return carry


def decode_blocks(
    apply: Callable[..., Carry], blocks: nnx.Module, carry: Carry, per_layer: Any
) -> Carry:
    """`scan_blocks` for a token a row, where reading the weights is all the work.

    On the CPU every dense layer, one of `glamm_jax.nn.linear.Linear`, keeps the stack of kernels
    and is told its place in it; see `linear_of_layer`.
    """
    if platform() != "cpu" or is_sharded():
        return scan_blocks(apply, blocks, carry, per_layer)
    graph, state = nnx.split(blocks)
    kernels, rest = nnx.split_state(state, lambda path, _: path[-1] == "kernel", ...)

    def body(carry: Carry, item: tuple) -> tuple[Carry, None]:
        index, rest, layer = item
        block = nnx.merge(graph, kernels, rest)
        for _, module in nnx.iter_modules(block):
            if isinstance(module, Linear):
                module.layer = index
        return apply(block, carry, layer), None

    count = jax.tree.leaves(kernels)[0].shape[0]
    carry, _ = jax.lax.scan(body, carry, (jnp.arange(count), rest, per_layer))
    return carry


def restack(blocks: Blocks, groups: int) -> Blocks:
    """The same blocks, their leading axis split into [groups, blocks of a group]."""
    graph, state = nnx.split(blocks)
    split = jax.tree.map(lambda x: x.reshape(groups, x.shape[0] // groups, *x.shape[1:]), state)
    return nnx.merge(graph, split)


def take_blocks(blocks: Blocks, start: int, stop: int) -> Blocks:
    """Some consecutive blocks of a stack."""
    graph, state = nnx.split(blocks)
    return nnx.merge(graph, jax.tree.map(lambda x: x[start:stop], state))


def unstack(blocks: Blocks, count: int) -> list[Blocks]:
    """The blocks of a stack one by one."""
    graph, state = nnx.split(blocks)
    return [nnx.merge(graph, jax.tree.map(lambda x, i=i: x[i], state)) for i in range(count)]
