"""Activation functions and multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, pairwise

import jax
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import Activation
from glamm_jax.nn.linear import Linear
from glamm_jax.parallel import constrain


def activate(x: Float[Array, "..."], activation: Activation) -> Float[Array, "..."]:
    """Apply an activation. GELU is exact (erf); QuickGELU, of CLIP-L, is x sigmoid(1.702 x)."""
    if activation == "gelu":
        return jax.nn.gelu(x, approximate=False)
    if activation == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.relu(x) if activation == "relu" else jax.nn.silu(x)


class TransformerMLP(nnx.Module):
    """Two linear layers with an activation between them, as in every ViT block."""

    def __init__(
        self,
        dim: int,
        mlp_dim: int,
        activation: Activation,
        *,
        rngs: nnx.Rngs,
        stack: tuple[int, ...] = (),
    ):
        self.up = Linear(dim, mlp_dim, ("embed", "mlp"), rngs=rngs, stack=stack)
        self.down = Linear(mlp_dim, dim, ("mlp", "embed"), rngs=rngs, stack=stack)
        self.activation: Activation = activation

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        hidden = constrain(activate(self.up(x), self.activation), "batch", None, "mlp")
        return self.down(hidden)


class MLP(nnx.Module):
    """Linear layers with an activation between them: dims = (in, hidden, ..., out).

    The logical axes of the layers alternate, so that the output axis of one layer is the input axis
    of the next. With three layers of the same axes XLA (jaxlib 0.10.2) computes wrong gradients on
    a mesh of three axes; a test checks this.
    """

    def __init__(
        self,
        dims: Sequence[int],
        activation: Activation,
        *,
        rngs: nnx.Rngs,
        stack: tuple[int, ...] = (),
    ):
        axes = cycle((("embed", "mlp"), ("mlp", "embed")))
        self.layers = nnx.List(
            [
                Linear(in_dim, out_dim, layer_axes, rngs=rngs, stack=stack)
                for (in_dim, out_dim), layer_axes in zip(pairwise(dims), axes, strict=False)
            ]
        )
        self.activation: Activation = activation

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = activate(layer(x), self.activation)
        return last(x)
