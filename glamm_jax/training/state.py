"""What training changes, and how a model falls apart into that and the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from glamm_jax.config import DType


class TrainState(NamedTuple):
    """All that a step changes; the dropout's key follows from `step`, so no more need be saved."""

    step: Int[Array, ""]  # steps done
    trainable: nnx.State  # float32
    opt_state: optax.OptState


class ModelSplit(NamedTuple):
    """A model taken apart: `nnx.merge(graphdef, state.trainable, frozen)` is whole again."""

    graphdef: nnx.GraphDef
    frozen: nnx.State
    state: TrainState


def split_model(
    model: nnx.Module,
    trained: Callable[[tuple, Any], bool],
    optimizer: optax.GradientTransformation,
    frozen_dtype: DType | None = None,
) -> ModelSplit:
    """The model before its first step. A step that donates the state takes the model's arrays.

    Args:
        frozen_dtype: what is not trained is kept in it; as it is unless given. What is trained, and
            all that the optimizer keeps of it, is float32.
    """
    graphdef, trainable, frozen = nnx.split(model, trained, ...)
    trainable = _cast(trainable, "float32")
    frozen = _cast(frozen, frozen_dtype) if frozen_dtype else frozen
    state = TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))
    return ModelSplit(graphdef, frozen, state)


def _cast(state: nnx.State, dtype: DType) -> nnx.State:
    """Parameters in a dtype; constants, and what has it already, stay as they are."""
    wanted = jnp.dtype(dtype)

    def change(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        is_parameter = isinstance(variable, nnx.Param)
        return variable.replace(variable.get_value().astype(wanted)) if is_parameter else variable

    return nnx.map_state(change, state)
