"""The state that training changes, and the split of a model into trained and frozen parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from glamm_jax.config import DType


class TrainState(NamedTuple):
    """Everything that a step changes. The field names are part of the checkpoint format.

    The random key of the dropout follows from `step` and the seed, so it need not be saved.

    Attributes:
        step: number of finished steps.
        trainable: trained parameters, float32.
        opt_state: of the optimizer.
    """

    step: Int[Array, ""]
    trainable: nnx.State
    opt_state: optax.OptState


class ModelSplit(NamedTuple):
    """A model in parts: `nnx.merge(graphdef, state.trainable, frozen)` is the model."""

    graphdef: nnx.GraphDef
    frozen: nnx.State
    state: TrainState


def split_model(
    model: nnx.Module,
    is_trained: Callable[[tuple, Any], bool],
    optimizer: optax.GradientTransformation,
    frozen_dtype: DType | None = None,
) -> ModelSplit:
    """Split a model before its first step.

    The state shares the model's arrays: a step that donates it invalidates the model.

    Args:
        model: to split.
        is_trained: filter of the trained parameters, `trainable_filter`. They, and what the
            optimizer keeps of them, are float32.
        optimizer: initializes its state.
        frozen_dtype: of all other parameters; None: as they are.
    """
    graphdef, trainable, frozen = nnx.split(model, is_trained, ...)
    trainable = _cast(trainable, "float32")
    frozen = _cast(frozen, frozen_dtype) if frozen_dtype else frozen
    state = TrainState(jnp.zeros((), jnp.int32), trainable, optimizer.init(trainable))
    return ModelSplit(graphdef, frozen, state)


def _cast(state: nnx.State, dtype: DType) -> nnx.State:
    """Cast parameters to a dtype. Constants stay as they are."""

    def cast(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        if not isinstance(variable, nnx.Param):
            return variable
        return variable.replace(variable.get_value().astype(jnp.dtype(dtype)))

    return nnx.map_state(cast, state)
