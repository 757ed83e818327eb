"""Muon updates the matrices of transformer blocks, layer by layer; Adam updates all others."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config.experiment import OptimConfig
from glamm_jax.errors import ConfigError
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import is_block_matrix
from glamm_jax.weights.flat_state import flatten_state

STACK = ("llama", "layers", "up_proj", "kernel")
HEAD = ("llama", "lm_head", "kernel")
BIAS = ("clip", "layers", "q_proj", "bias")
DECODER = ("sam", "mask_decoder", "iou_head", "kernel")
SHAPES = {STACK: (3, 8, 32), HEAD: (8, 16), BIAS: (3, 8), DECODER: (8, 8)}


def make_state(seed: int) -> nnx.State:
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    pairs = zip(keys, SHAPES.items(), strict=True)
    return nnx.from_flat_state(
        [(path, nnx.Param(jax.random.normal(key, shape))) for key, (path, shape) in pairs]
    )


def optim(unused_parts: Any, muon_lr: float | None) -> OptimConfig:
    return OptimConfig(
        peak_lr=1e-3,
        muon_lr=muon_lr,
        schedule="constant",
        warmup_steps=0,
        clip_norm=1e9,
        unused_parts=unused_parts,
    )


def updates_of(config: OptimConfig, **used: bool) -> dict[str, np.ndarray]:
    optimizer, state = make_optimizer(config), make_state(0)
    extra = {"used": {part: jnp.asarray(value) for part, value in used.items()}}
    opt_state = optimizer.init(state)
    updates, _ = optimizer.update(make_state(1), opt_state, state, **extra)
    return {leaf: np.asarray(value) for leaf, value in flatten_state(updates).items()}


ALL = {"llama": True, "lm_head": True, "clip": True, "masks": True, "unread": True}


@pytest.mark.parametrize("unused_parts", ["skip", "zero"])
def test_each_layer_of_a_stack_moves_by_an_orthogonal_matrix(unused_parts: str) -> None:
    updates = updates_of(optim(unused_parts, muon_lr=1e-2), **ALL)
    for layer in updates[".".join(STACK)]:
        scale = 1e-2 * (32 / 8) ** 0.5
        singular = np.linalg.svd(layer, compute_uv=False) / scale
        # The five iterations bring every singular value near 1, not onto it.
        assert (singular > 0.6).all()
        assert (singular < 1.3).all()


def test_a_layer_moves_as_if_it_were_alone() -> None:
    """Another layer's gradient, however large, changes nothing."""
    optimizer, state, gradients = make_optimizer(optim("zero", 1e-2)), make_state(0), make_state(1)
    leaf = ".".join(STACK)

    def first_layer(factor: float) -> np.ndarray:
        scaled = nnx.map_state(
            lambda path, v: v.replace(v[...].at[1].multiply(factor)) if path == STACK else v,
            gradients,
        )
        updates, _ = optimizer.update(scaled, optimizer.init(state), state)
        return np.asarray(flatten_state(updates)[leaf][0])

    np.testing.assert_array_equal(first_layer(1.0), first_layer(100.0))


def test_everything_else_moves_as_with_adam_alone() -> None:
    mixed, adam = (updates_of(optim("skip", lr), **ALL) for lr in (1e-2, None))
    for path in SHAPES:
        leaf = ".".join(path)
        same = np.array_equal(mixed[leaf], adam[leaf])
        assert same == (path != STACK), leaf


def test_an_untouched_part_does_not_move() -> None:
    updates = updates_of(optim("skip", 1e-2), **{**ALL, "llama": False})
    assert not updates[".".join(STACK)].any()
    assert updates[".".join(BIAS)].any()


def test_only_kernels_of_stacked_blocks_are_block_matrices() -> None:
    matrices = [path for path in SHAPES if is_block_matrix(".".join(path))]
    assert matrices == [STACK]
    assert is_block_matrix("sam.encoder.global_blocks.mlp.up.kernel")
    assert not is_block_matrix("sam.encoder.neck.mix.kernel")
    assert not is_block_matrix("llama.layers.q_proj.lora.a")


def test_the_rate_of_muon_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="muon_lr"):
        OptimConfig(muon_lr=0.0)
