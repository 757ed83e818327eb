"""The training step, a pure function: state and batch in, new state and metrics out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float

from glamm_jax.config import GLaMMConfig, LossWeights
from glamm_jax.config.experiment import OptimConfig
from glamm_jax.training.losses import loss_counts, losses
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import norms_by_part, used_parts
from glamm_jax.training.placement import keep_sharding
from glamm_jax.training.schedule import learning_rate
from glamm_jax.training.state import ModelSplit, TrainState
from glamm_jax.types import Batch, Losses


class Metrics(NamedTuple):
    """Metrics of a step.

    Attributes:
        loss: sum of the weighted losses.
        ce: weighted cross-entropy of the text.
        bce: weighted binary cross-entropy of the masks.
        dice: weighted dice loss of the masks.
        grad_norm: global L2 norm of the gradient, before clipping.
        grad_norms: L2 norm of the gradient of every part.
        learning_rate: of this step.
        skipped: the loss or the gradient was not finite, so the parameters did not change.
        iou: weighted loss of the IoU estimate; None: its weight is 0.
    """

    loss: Float[Array, ""]
    ce: Float[Array, ""]
    bce: Float[Array, ""]
    dice: Float[Array, ""]
    grad_norm: Float[Array, ""]
    grad_norms: dict[str, Float[Array, ""]]
    learning_rate: Float[Array, ""]
    skipped: Bool[Array, ""]
    iou: Float[Array, ""] | None = None


Step = Callable[[nnx.GraphDef, nnx.State, TrainState, Batch], tuple[TrainState, Metrics]]


@runtime_checkable
class CompiledStep(Protocol):
    """A step that is compiled for one model, mesh and shape of the batch."""

    def __call__(
        self, frozen: nnx.State, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        """Run the step."""
        ...

    def memory_analysis(self) -> Any:
        """Return what the program needs on a device, as the compiler says; None: unknown."""
        ...


@cache
def make_step(config: GLaMMConfig, optim: OptimConfig, weights: LossWeights, seed: int = 0) -> Step:
    """Return the compiled `step(graphdef, frozen, state, batch) -> (state, metrics)`.

    Only `state` is donated. The gradient is taken with respect to `state.trainable` alone, so none
    is formed for frozen parameters. When the loss or the gradient is not finite, only the count of
    steps changes. Compiled under a mesh, the new state has the shardings of the old one.

    With `optim.accumulation_steps` > 1 the batch is a stack of as many batches (`stack_batches`),
    which run one after another. The loss of each is divided by the targets and masks of all of
    them, so that the result is that of one large batch.

    Args:
        config: of the model.
        optim: of the optimizer.
        weights: of the losses.
        seed: gives, with the number of the step, the random key of the dropout.
    """
    optimizer, schedule = make_optimizer(optim), learning_rate(optim)

    def step(
        graphdef: nnx.GraphDef, frozen: nnx.State, state: TrainState, batch: Batch
    ) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        counts = loss_counts(batch)

        def loss_gradients(batch: Batch, key: Array) -> tuple[nnx.State, Losses]:
            def loss(trainable: nnx.State) -> tuple[Float[Array, ""], Losses]:
                model = nnx.merge(graphdef, trainable, frozen, copy=True)
                parts = losses(model, batch, model(batch, key), weights, counts)
                return parts.total, parts

            return jax.grad(loss, has_aux=True)(state.trainable)

        if optim.accumulation_steps == 1:
            gradients, parts = loss_gradients(batch, key)
        else:
            gradients, parts = _accumulate(loss_gradients, batch, key, optim.accumulation_steps)
        updates, opt_state = optimizer.update(
            gradients,
            state.opt_state,
            state.trainable,
            used=used_parts(batch, config, weights.iou > 0),
        )
        norm, rate = optax.tree.norm(gradients), jnp.asarray(schedule(state.step))
        finite = jnp.isfinite(parts.total) & jnp.isfinite(norm)
        trainable: Any = optax.apply_updates(state.trainable, updates)
        updated = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (trainable, opt_state),
            (state.trainable, state.opt_state),
        )
        metrics = Metrics(
            *(parts.total, parts.ce, parts.bce, parts.dice),
            *(norm, norms_by_part(gradients), rate, ~finite, parts.iou),
        )
        return keep_sharding(TrainState(state.step + 1, *updated)), metrics

    return jax.jit(step, static_argnums=0, donate_argnums=2)


def compile_step(step: Step, split: ModelSplit, batch: Batch) -> CompiledStep:
    """Compile what `make_step` returns, once for all steps of a run.

    Args:
        step: of `make_step`.
        split: the model, as it is placed for the first step.
        batch: of the first step.
    """
    program: Any = step
    return program.lower(split.graphdef, split.frozen, split.state, batch).compile()


def stack_batches(batches: Sequence[Batch]) -> Batch:
    """Return the argument of a step: a single batch as it is, several stacked on a new axis 0."""
    if len(batches) == 1:
        return batches[0]
    fields = zip(*batches, strict=True)
    return Batch(*(None if arrays[0] is None else np.stack(arrays) for arrays in fields))


def _accumulate(
    loss_gradients: Callable[[Batch, Array], tuple[nnx.State, Losses]],
    batches: Batch,
    key: Array,
    num_batches: int,
) -> tuple[nnx.State, Losses]:
    """Sum the gradients and losses of a stack of batches, one after another."""

    def add(total: Any, item: tuple[Batch, Array]) -> tuple[Any, None]:
        batch, index = item
        gradients = loss_gradients(batch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, gradients), None

    first = jax.tree.map(lambda x: x[0], batches)
    shapes = jax.eval_shape(loss_gradients, first, key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zeros, (batches, jnp.arange(num_batches)))[0]
