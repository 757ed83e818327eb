"""One step of training as a pure function: state and batch in, state and metrics out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.experiment import OptimConfig
from glamm_jax.training.losses import losses
from glamm_jax.training.optim import learning_rate, make_optimizer, touched_parts
from glamm_jax.training.placement import kept_in_place
from glamm_jax.training.state import TrainState
from glamm_jax.types import Batch, Losses


class Metrics(NamedTuple):
    """What a step reports: the weighted losses, loss their sum, and how it learned."""

    loss: Float[Array, ""]
    ce: Float[Array, ""]
    bce: Float[Array, ""]
    dice: Float[Array, ""]
    grad_norm: Float[Array, ""]  # global, before clipping
    learning_rate: Float[Array, ""]


Step = Callable[[nnx.GraphDef, nnx.State, TrainState, Batch], tuple[TrainState, Metrics]]


def make_step(config: GLaMMConfig, optim: OptimConfig, weights: LossWeights, seed: int = 0) -> Step:
    """The compiled `step(graphdef, frozen, state, batch) -> (state, metrics)`.

    Only `state` is donated. The gradient is taken with respect to `state.trainable` alone: for a
    frozen weight none is ever formed. `seed` and the number of the step give the dropout's key.
    Compiled under a mesh, the state leaves where it came in.
    """
    optimizer, schedule = make_optimizer(optim), learning_rate(optim)

    def step(
        graphdef: nnx.GraphDef, frozen: nnx.State, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        dropout_key = jax.random.fold_in(jax.random.key(seed), state.step)

        def loss(trainable: nnx.State) -> tuple[Float[Array, ""], Losses]:
            model = nnx.merge(graphdef, trainable, frozen, copy=True)
            parts = losses(model, batch, model(batch, dropout_key), weights)
            return parts.total, parts

        gradients, parts = jax.grad(loss, has_aux=True)(state.trainable)
        updates, opt_state = optimizer.update(
            gradients, state.opt_state, state.trainable, touched=touched_parts(batch, config)
        )
        trainable: Any = optax.apply_updates(state.trainable, updates)
        norm, rate = optax.tree.norm(gradients), jnp.asarray(schedule(state.step))
        metrics = Metrics(parts.total, parts.ce, parts.bce, parts.dice, norm, rate)
        return kept_in_place(TrainState(state.step + 1, trainable, opt_state)), metrics

    return jax.jit(step, static_argnums=0, donate_argnums=2)
