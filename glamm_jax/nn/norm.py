"""Normalization layers. Statistics are computed in float32; the result has the input's dtype."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.nn.linear import broadcast_last


def layer_norm(
    x: Float[Array, "*batch d"], scale: Float[Array, "d"], bias: Float[Array, "d"], eps: float
) -> Float[Array, "*batch d"]:
    """Normalize the last axis to zero mean and unit variance. On NHWC this is SAM's LayerNorm2d.

    Args:
        x: the input.
        scale: factor of each normalized feature.
        bias: offset of each normalized feature.
        eps: added to the variance.
    """
    y = x.astype(jnp.float32)
    y = y - y.mean(-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    return (y * broadcast_last(scale, y) + broadcast_last(bias, y)).astype(x.dtype)


def rms_norm(
    x: Float[Array, "*batch d"], scale: Float[Array, "d"], eps: float
) -> Float[Array, "*batch d"]:
    """Normalize the last axis to a root mean square of 1.

    Args:
        x: the input.
        scale: factor of each normalized feature, applied in the dtype of the input.
        eps: added to the mean square.
    """
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + eps)
    y = y.astype(x.dtype)
    return y * broadcast_last(scale, y)


def group_norm(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    groups: int,
    eps: float,
) -> Float[Array, "b h w c"]:
    """Normalize each group of channels, over all pixels, to zero mean and unit variance.

    Args:
        x: feature maps.
        scale: factor of each channel.
        bias: offset of each channel.
        groups: number of groups; divides the number of channels.
        eps: added to the variance.
    """
    b, h, w, c = x.shape
    y = x.astype(jnp.float32).reshape(b, h * w, groups, c // groups)
    y = y - y.mean((1, 3), keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean((1, 3), keepdims=True) + eps)
    y = y.reshape(x.shape)
    return (y * broadcast_last(scale, y) + broadcast_last(bias, y)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """`layer_norm` with its parameters."""

    def __init__(self, dim: int, eps: float, *, stack: tuple[int, ...] = ()):
        layers = ("layers", *(None,) * (len(stack) - 1)) if stack else ()
        self.scale = nnx.Param(jnp.ones((*stack, dim)), axes=(*layers, None))
        self.bias = nnx.Param(jnp.zeros((*stack, dim)), axes=(*layers, None))
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        return layer_norm(x, self.scale[...], self.bias[...], self.eps)


class RMSNorm(nnx.Module):
    """`rms_norm` with its parameters."""

    def __init__(self, dim: int, eps: float, *, stack: tuple[int, ...] = ()):
        layers = ("layers", *(None,) * (len(stack) - 1)) if stack else ()
        self.scale = nnx.Param(jnp.ones((*stack, dim)), axes=(*layers, None))
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        return rms_norm(x, self.scale[...], self.eps)


class GroupNorm(nnx.Module):
    """`group_norm` with its parameters."""

    def __init__(self, dim: int, groups: int, eps: float, *, stack: tuple[int, ...] = ()):
        layers = ("layers", *(None,) * (len(stack) - 1)) if stack else ()
        self.scale = nnx.Param(jnp.ones((*stack, dim)), axes=(*layers, None))
        self.bias = nnx.Param(jnp.zeros((*stack, dim)), axes=(*layers, None))
        self.groups, self.eps = groups, eps

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        return group_norm(x, self.scale[...], self.bias[...], self.groups, self.eps)
