"""Between a model's state and flat {leaf path: array}, which is how weight tables see it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def flatten_state(state: nnx.State) -> dict[str, Any]:
    """{dotted path: value} of every variable."""
    return {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }


def state_shapes(state: nnx.State) -> dict[str, tuple[int, ...]]:
    """{dotted path: shape} of every variable, concrete or abstract."""
    return {path: tuple(value.shape) for path, value in flatten_state(state).items()}


def fill_state(
    state: nnx.State, leaves: Mapping[str, np.ndarray | jax.Array], dtype: Any = None
) -> nnx.State:
    """The same state with these values, cast to `dtype` or kept in their own.

    Raises: KeyError naming the first leaf that `leaves` lacks.
    """

    def value(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        array = leaves[".".join(map(str, path))]
        return variable.replace(jnp.asarray(array, dtype or array.dtype))

    return nnx.map_state(value, state)
