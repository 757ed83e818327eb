"""Low-rank adapters (LoRA) of linear layers.

A linear layer carries an adapter or none; `attach` gives adapters to a decoder,
`weights.lora.MergedLeaves` merges them into the kernels. y = x W + (alpha / rank) dropout(x) A B.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import LoRAConfig
from glamm_jax.nn.initializers import normal

if TYPE_CHECKING:
    from glamm_jax.nn.linear import Linear


class LoRAParam(nnx.Param):
    """A matrix of an adapter; a separate variable type, so that training can select it."""


def low_rank(
    x: Float[Array, "*batch i"],
    a: Float[Array, "i r"],
    b: Float[Array, "r o"],
    scale: float,
) -> Float[Array, "*batch o"]:
    """Compute scale * x A B in the dtype of x.

    Args:
        x: input.
        a: the matrix A.
        b: the matrix B.
        scale: alpha / rank.
    """
    return scale * ((x @ a.astype(x.dtype)) @ b.astype(x.dtype))


def dropout(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """Zero a fraction `rate` of x and scale the rest by 1 / (1 - rate).

    Args:
        x: input.
        rate: probability of zero.
        key: random key; None: return x unchanged.
    """
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class LoRA(nnx.Module):
    """An adapter, or a stack of adapters; B is initialized to zero, so the output is zero at first.

    Args:
        base: the adapted layer, for shapes and axes.
        config: rank, alpha and dropout.
        rngs: random numbers of the initialization.
    """

    def __init__(self, base: Linear, config: LoRAConfig, *, rngs: nnx.Rngs):
        *stack, in_dim, out_dim = base.kernel.shape
        *layers, in_axis, out_axis = base.kernel.get_metadata()["axes"]
        noise = normal(rngs, (*stack, in_dim, config.rank), in_dim**-0.5)
        self.a = LoRAParam(noise, axes=(*layers, in_axis, "rank"))
        self.b = LoRAParam(
            jnp.zeros((*stack, config.rank, out_dim)), axes=(*layers, "rank", out_axis)
        )
        self.scale, self.dropout = config.scale, config.dropout

    def __call__(
        self, x: Float[Array, "*batch i"], dropout_key: Array | None = None
    ) -> Float[Array, "*batch o"]:
        return low_rank(dropout(x, self.dropout, dropout_key), self.a[...], self.b[...], self.scale)


def attach(layers: dict[str, Linear], config: LoRAConfig, *, rngs: nnx.Rngs) -> None:
    """Add a new adapter to every layer in `config.targets`.

    Args:
        layers: the linear layers, by name.
        config: of the adapters.
        rngs: random numbers of the initialization.
    """
    for name in config.targets:
        layers[name].lora = LoRA(layers[name], config, rngs=rngs)
