"""Activations and the multi-layer perceptrons built from them."""

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
    """GELU is the exact one (erf); QuickGELU is x sigmoid(1.702 x), CLIP-L's."""
    if activation == "gelu":
        return jax.nn.gelu(x, approximate=False)
    if activation == "quick_gelu":
        return x * jax.nn.sigmoid(1.702 * x)
    return jax.nn.relu(x) if activation == "relu" else jax.nn.silu(x)


class TransformerMLP(nnx.Module):
    """Two linear layers with an activation between, as in every ViT block."""

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

    Their logical axes alternate, so that one layer ends where the next begins. With three layers of
    one orientation XLA (jaxlib 0.10.2) forms wrong gradients on a mesh of three axes; a test looks.
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
                Linear(i, o, ends, rngs=rngs, stack=stack)
                for (i, o), ends in zip(pairwise(dims), axes, strict=False)
            ]
        )
        self.activation: Activation = activation

    def __call__(self, x: Float[Array, "*batch i"]) -> Float[Array, "*batch o"]:
        *hidden, last = self.layers
        for layer in hidden:
            x = activate(layer(x), self.activation)
        return last(x)
