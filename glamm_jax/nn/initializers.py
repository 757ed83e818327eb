"""Random initial values of parameters."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> Float[Array, "..."]:
    """Sample float32 normal noise.

    Args:
        rngs: random streams; `params` is used.
        shape: of the sample.
        std: standard deviation.
    """
    return _normal(rngs.params(), shape, std)


# One program for all leaves of a shape. The factor is in it, so that it is rounded as in a program
# that samples a complete model.
@partial(jax.jit, static_argnums=(1, 2))
def _normal(key: Array, shape: tuple[int, ...], std: float) -> Array:
    return std * jax.random.normal(key, shape, jnp.float32)
