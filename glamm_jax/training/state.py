"""What training changes, and how a model falls apart into that and the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int


class TrainState(NamedTuple):
    """All that a step changes; the dropout's key follows from `step`, so no more need be saved."""

    step: Int[Array, ""]  # steps done
    trainable: nnx.State  # float32
    opt_state: optax.OptState


class Split(NamedTuple):
    """A model taken apart: `nnx.merge(graphdef, state.trainable, frozen)` is whole again."""

    graphdef: nnx.GraphDef
    frozen: nnx.State
    state: TrainState


def split_model(
    model: nnx.Module,
    trained: Callable[[tuple, Any], bool],
    optimizer: optax.GradientTransformation,
) -> Split:
    """The model before its first step. A step that donates the state takes the model's arrays."""
    graphdef, trainable, frozen = nnx.split(model, trained, ...)
    state = TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))
    return Split(graphdef, frozen, state)
