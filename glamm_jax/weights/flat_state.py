"""Conversion between a model's state and a flat {leaf path: array}, as weight tables use it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx


def flatten_state(state: nnx.State) -> dict[str, Any]:
    """Return {dotted path: value} of every variable."""
    return {
        ".".join(map(str, path)): variable.get_value()
        for path, variable in nnx.to_flat_state(state)
    }


def state_shapes(state: nnx.State) -> dict[str, tuple[int, ...]]:
    """Return {dotted path: shape} of every variable of a concrete or abstract state."""
    return {path: tuple(value.shape) for path, value in flatten_state(state).items()}


def fill_state(
    state: nnx.State, leaves: Mapping[str, np.ndarray | jax.Array], dtype: Any = None
) -> nnx.State:
    """Return a state of the same structure with other values.

    Args:
        state: concrete or abstract.
        leaves: value of every leaf by its dotted path; others are ignored.
        dtype: of all leaves; None: each keeps its own.

    Raises:
        KeyError: a leaf is missing.
    """

    def value(path: tuple, variable: nnx.Variable) -> nnx.Variable:
        array = leaves[".".join(map(str, path))]
        return variable.replace(jnp.asarray(array, dtype or array.dtype))

    return nnx.map_state(value, state)
