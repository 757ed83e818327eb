"""Low-rank adapters (LoRA), outside the layers they adapt.

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

if TYPE_CHECKING:
    from glamm_jax.nn.linear import Linear


class LoRAParam(nnx.Param):
    """An adapter's matrix: a variable type of its own, so that training can select it."""


def low_rank(
    x: Float[Array, "*batch i"],
    a: Float[Array, "i r"],
    b: Float[Array, "r o"],
    scale: float,
) -> Float[Array, "*batch o"]:
    """scale * x A B, in the dtype of x."""
    return scale * ((x @ a.astype(x.dtype)) @ b.astype(x.dtype))


def dropout(x: Float[Array, "..."], rate: float, key: Array | None) -> Float[Array, "..."]:
    """Zero a share `rate` of x and scale up the rest; without a key, nothing."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), 0).astype(x.dtype)


class LoRA(nnx.Module):
    """One adapter, or a stack of them; B starts at zero, so a fresh adapter changes nothing."""

    def __init__(self, base: Linear, config: LoRAConfig, *, rngs: nnx.Rngs):
        *stack, in_dim, out_dim = base.kernel.shape
        *layers, in_axis, out_axis = base.kernel.get_metadata()["axes"]
        noise = jax.random.normal(rngs.params(), (*stack, in_dim, config.rank), jnp.float32)
        self.a = LoRAParam(noise * in_dim**-0.5, axes=(*layers, in_axis, "rank"))
        self.b = LoRAParam(
            jnp.zeros((*stack, config.rank, out_dim)), axes=(*layers, "rank", out_axis)
        )
        self.scale, self.dropout = config.scale, config.dropout

    def __call__(
        self, x: Float[Array, "*batch i"], dropout_key: Array | None = None
    ) -> Float[Array, "*batch o"]:
        return low_rank(dropout(x, self.dropout, dropout_key), self.a[...], self.b[...], self.scale)


def attach(layers: dict[str, Linear], config: LoRAConfig, *, rngs: nnx.Rngs) -> None:
    """Give each layer that the configuration names a fresh adapter."""
    for name in config.targets:
        layers[name].lora = LoRA(layers[name], config, rngs=rngs)
