"""The optimizer: gradient clipping by the global norm, AdamW (or Muon and AdamW), learning rate.

    optimizer = make_optimizer(config.optim)
    opt_state = optimizer.init(trainable)
    updates, opt_state = optimizer.update(
        gradients, opt_state, trainable, used=used_parts(batch, config.model)
    )

With `optim.unused_parts = "skip"` AdamW runs on every part of the model by itself (see
`glamm_jax.training.parameter_groups`), and a part that the batch does not use keeps its parameters,
its moments and its count of steps, which the bias correction reads. torch does the same with a
parameter without gradient.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Bool, Float

from glamm_jax.config.experiment import OptimConfig
from glamm_jax.training.parameter_groups import is_block_matrix, leaves_by_part
from glamm_jax.training.schedule import learning_rate
from glamm_jax.weights.flat_state import fill_state, flatten_state

_STACKED_MATRIX = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)


def make_optimizer(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer of a run: clip by the global norm, AdamW, learning rate.

    Its `update` takes `used=used_parts(batch, config)`. Clipping sees all gradients (those of an
    unused part are zero), and the schedule counts all steps.
    """
    rule = optax.chain(
        optax.scale_by_adam(*config.betas, eps=config.eps)
        if config.muon_lr is None
        else _muon_and_adam(config, config.muon_lr),
        optax.add_decayed_weights(config.weight_decay),
    )
    chain = optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        skip_unused_parts(rule) if config.unused_parts == "skip" else _by_leaf(rule),
        optax.scale_by_learning_rate(learning_rate(config)),
    )
    return optax.with_extra_args_support(chain)


def skip_unused_parts(
    inner: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Apply a transformation to every part by itself; an unused part and its state do not change.

    Args:
        inner: a transformation of {leaf path: value}.

    Returns:
        A transformation of a model's state, whose own state is {part: state of `inner`}. Its
        `update` takes `used`: {part: whether the losses depend on it}.
    """

    def init(params: Any) -> dict[str, Any]:
        return {part: inner.init(leaves) for part, leaves in leaves_by_part(params).items()}

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        used: dict[str, Bool[Array, ""]] = extra["used"]
        gradients, values = leaves_by_part(updates), leaves_by_part(params)
        new_updates: dict[str, Array] = {}
        new_state = {}
        for part, old in state.items():
            part_updates, new = inner.update(gradients[part], old, values[part])
            choose = partial(jnp.where, used[part])
            new_updates |= jax.tree.map(lambda x, choose=choose: choose(x, 0), part_updates)
            new_state[part] = jax.tree.map(choose, new, old)
        return fill_state(updates, new_updates), new_state

    return optax.GradientTransformationExtraArgs(init, update)


def _by_leaf(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Apply a transformation of {leaf path: value} to a model's state."""

    def init(params: Any) -> Any:
        return inner.init(flatten_state(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        new_updates: Any
        new_updates, state = inner.update(flatten_state(updates), state, flatten_state(params))
        return fill_state(updates, new_updates), state

    return optax.GradientTransformation(init, update)


def _muon_and_adam(config: OptimConfig, muon_lr: float) -> optax.GradientTransformation:
    """Muon for the matrices of transformer blocks, every layer by itself; Adam for all others.

    Muon's update of a matrix is orthogonal, times sqrt(max(1, out / in)). It is scaled by
    `muon_lr / peak_lr`, since the chain multiplies everything by the schedule of `peak_lr`.
    """

    def dimension_numbers(leaves: Any) -> Any:
        return {
            leaf: _STACKED_MATRIX if is_block_matrix(leaf) else optax.MaskedNode()
            for leaf in leaves
        }

    def labels(leaves: Any) -> Any:
        return {leaf: is_block_matrix(leaf) for leaf in leaves}

    muon = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=dimension_numbers),
        optax.stateless(lambda updates, _: jax.tree.map(_scale_by_shape, updates)),
        optax.scale(muon_lr / config.peak_lr),
    )
    adam = optax.scale_by_adam(*config.betas, eps=config.eps)
    return optax.partition({True: muon, False: adam}, labels)


def _scale_by_shape(update: Float[Array, "l i o"]) -> Float[Array, "l i o"]:
    _, inputs, outputs = update.shape
    return max(1.0, outputs / inputs) ** 0.5 * update
