"""One step of training as a pure function: state and batch in, state and metrics out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.config.experiment import OptimConfig
from glamm_jax.training.losses import loss_counts, losses
from glamm_jax.training.optimizer import learning_rate, make_optimizer, norms_by_part, used_parts
from glamm_jax.training.placement import keep_sharding
from glamm_jax.training.state import TrainState
from glamm_jax.types import Batch, Losses


class Metrics(NamedTuple):
    """What a step reports: the weighted losses, loss their sum, and how it learned."""

    loss: Float[Array, ""]
    ce: Float[Array, ""]
    bce: Float[Array, ""]
    dice: Float[Array, ""]
    grad_norm: Float[Array, ""]  # global, before clipping
    grad_norms: dict[str, Float[Array, ""]]  # of each part
    learning_rate: Float[Array, ""]
    skipped: Bool[Array, ""]  # something was not finite, and nothing was learned


Step = Callable[[nnx.GraphDef, nnx.State, TrainState, Batch], tuple[TrainState, Metrics]]


@cache
def make_step(config: GLaMMConfig, optim: OptimConfig, weights: LossWeights, seed: int = 0) -> Step:
    """The compiled `step(graphdef, frozen, state, batch) -> (state, metrics)`.

    Only `state` is donated. The gradient is taken with respect to `state.trainable` alone: for a
    frozen weight none is ever formed. `seed` and the number of the step give the dropout's key.
    Compiled under a mesh, the state leaves where it came in.

    With `optim.accumulation_steps` > 1 the batch is a stack of so many (`stack_batches`), one forward and
    backward each; each is divided by what all of them hold, so the sum is that of one big batch.
    A step whose loss or gradient is not finite leaves all but the count of steps as it was.
    """
    optimizer, schedule = make_optimizer(optim), learning_rate(optim)

    def step(
        graphdef: nnx.GraphDef, frozen: nnx.State, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        counts = loss_counts(batch)

        def gradients(batch: Batch, key: Array) -> tuple[nnx.State, Losses]:
            def loss(trainable: nnx.State) -> tuple[Float[Array, ""], Losses]:
                model = nnx.merge(graphdef, trainable, frozen, copy=True)
                parts = losses(model, batch, model(batch, key), weights, counts)
                return parts.total, parts

            return jax.grad(loss, has_aux=True)(state.trainable)

        if optim.accumulation_steps == 1:
            grads, parts = gradients(batch, key)
        else:
            grads, parts = _summed(gradients, batch, key, optim.accumulation_steps)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.trainable, touched=used_parts(batch, config)
        )
        norm, rate = optax.tree.norm(grads), jnp.asarray(schedule(state.step))
        finite = jnp.isfinite(parts.total) & jnp.isfinite(norm)
        trainable: Any = optax.apply_updates(state.trainable, updates)
        learned = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (trainable, opt_state),
            (state.trainable, state.opt_state),
        )
        metrics = Metrics(
            *(parts.total, parts.ce, parts.bce, parts.dice),
            *(norm, norms_by_part(grads), rate, ~finite),
        )
        return keep_sharding(TrainState(state.step + 1, *learned)), metrics

    return jax.jit(step, static_argnums=0, donate_argnums=2)


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """What a step takes: the batch itself, or several with a new dimension in front."""
    if len(batches) == 1:
        return batches[0]
    parts = zip(*batches, strict=True)
    return Batch(*(None if part[0] is None else np.stack(part) for part in parts))


def _summed(
    gradients: Callable[[Batch, Array], tuple[nnx.State, Losses]],
    batches: Batch,
    key: Array,
    number: int,
) -> tuple[nnx.State, Losses]:
    """Gradients and losses of a stack of batches, one after another."""

    def add(total: Any, item: tuple[Batch, Array]) -> tuple[Any, None]:
        batch, place = item
        return jax.tree.map(jnp.add, total, gradients(batch, jax.random.fold_in(key, place))), None

    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(gradients, first, key)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, nothing, (batches, jnp.arange(number)))[0]
