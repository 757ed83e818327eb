"""Affine layers: dense layers, convolutions, embedding tables. Functions first, modules second.

Modules may be *stacked*: `stack=(32,)` adds a leading axis of 32 layers to every leaf, which
`glamm_jax.nn.layer_stack.scan_blocks` scans over. Kernels are stored as [in, out] and HWIO: in any
other layout XLA's CPU backend is 20 times slower for single rows.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from glamm_jax.nn.conv_on_cpu import conv_channels_last, conv_on_cpu
from glamm_jax.nn.initializers import normal
from glamm_jax.nn.lora import LoRA
from glamm_jax.parallel import constrain, num_shards, platform

Axes = tuple[str | None, ...]

# A kernel is read in chunks of at most this many elements, which fit a CPU's last-level cache.
_MAX_CHUNK_SIZE = 2**20


def broadcast_last(vector: Float[Array, "d"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Broadcast a vector along the last axis of x, in the dtype of x (an explicit promotion)."""
    return jnp.broadcast_to(vector.astype(x.dtype), x.shape)


def linear(
    x: Float[Array, "*batch i"], kernel: Float[Array, "i o"], bias: Float[Array, "o"] | None = None
) -> Float[Array, "*batch o"]:
    """Compute x @ kernel + bias in the dtype of x.

    Args:
        x: the input.
        kernel: weights, cast to the dtype of x.
        bias: added to every output, if given.
    """
    y = x @ kernel.astype(x.dtype)
    return y if bias is None else y + broadcast_last(bias, y)


def linear_from_stack(
    x: Float[Array, "*batch i"], kernels: Float[Array, "l i o"], layer_index: Int[Array, ""]
) -> Float[Array, "*batch o"]:
    """Compute x @ kernels[layer_index] for few rows of x, where reading the kernel dominates.

    XLA's CPU backend writes a slice of a stack to memory, half precision as float32, before it
    multiplies. Read in chunks, that copy stays in the cache.

    Args:
        x: the input.
        kernels: the stacked kernels.
        layer_index: which kernel to use; may be traced.

    Returns:
        The product in the dtype of x, summed in float32.
    """
    _, in_dim, out_dim = kernels.shape
    num_chunks = next(
        n
        for n in range(1, in_dim + 1)
        if in_dim % n == 0 and in_dim // n * out_dim <= _MAX_CHUNK_SIZE
    )
    size, num_rows = in_dim // num_chunks, math.prod(x.shape[:-1])
    rows = x.reshape(num_rows, num_chunks, size)

    def add_chunk(chunk: Int[Array, ""], total: Array) -> Array:
        start = (layer_index, chunk * size, 0)
        kernel = jax.lax.dynamic_slice(kernels, start, (1, size, out_dim))[0].astype(x.dtype)
        return total + jnp.dot(rows[:, chunk], kernel, preferred_element_type=jnp.float32)

    zeros = jnp.zeros((num_rows, out_dim), jnp.float32)
    total = jax.lax.fori_loop(0, num_chunks, add_chunk, zeros)
    return total.astype(x.dtype).reshape(*x.shape[:-1], out_dim)


def conv(
    x: Float[Array, "b h w i"],
    kernel: Float[Array, "kh kw i o"],
    bias: Float[Array, "o"] | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
) -> Float[Array, "b h2 w2 o"]:
    """Compute a two-dimensional cross-correlation, channels last.

    Args:
        x: feature maps.
        kernel: weights, cast to the dtype of x.
        bias: added to every output pixel, if given.
        stride: of both axes.
        padding: zeros added on every side.
    """
    convolve = conv_on_cpu if stride == 1 and platform() == "cpu" else conv_channels_last
    y = convolve(x, kernel.astype(x.dtype), stride, padding)
    return y if bias is None else y + broadcast_last(bias, y)


def patchify(x: Float[Array, "b h w c"], patch: int) -> Float[Array, "b gh gw p"]:
    """Cut images into patches, each flattened in the order (row, column, channel).

    A convolution whose stride equals its kernel size is one matrix product of these.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // patch, w // patch, patch * patch * c)


def unpatchify(x: Float[Array, "b h w p"], patch: int) -> Float[Array, "b h2 w2 c"]:
    """Invert `patchify`: the last step of a transposed convolution with stride = kernel size."""
    b, h, w, features = x.shape
    x = x.reshape(b, h, w, patch, patch, features // patch**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * patch, w * patch, features // patch**2)


class Linear(nnx.Module):
    """A dense layer [..., in] -> [..., out], optionally with a LoRA adapter."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        axes: Axes,
        *,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        stack: tuple[int, ...] = (),
    ):
        """Initialize the layer; `axes` are the logical axes of its input and its output."""
        layers: Axes = ("layers", *(None,) * (len(stack) - 1)) if stack else ()
        kernel = normal(rngs, (*stack, in_dim, out_dim), in_dim**-0.5)
        self.kernel = nnx.Param(kernel, axes=(*layers, *axes))
        self.bias = (
            nnx.Param(jnp.zeros((*stack, out_dim)), axes=(*layers, axes[1])) if use_bias else None
        )
        self.lora: LoRA | None = nnx.data(None)
        # Set by `scan_blocks_for_decoding`, where `kernel` is the complete stack of all layers.
        self.layer_index: Array | None = nnx.data(None)

    def __call__(
        self, x: Float[Array, "*batch i"], dropout_key: Array | None = None
    ) -> Float[Array, "*batch o"]:
        if self.layer_index is None:
            y = linear(x, self.kernel[...])
        else:
            y = linear_from_stack(x, self.kernel[...], self.layer_index)
        if self.bias is not None:
            y = y + broadcast_last(self.bias[...], y)
        return y if self.lora is None else y + self.lora(x, dropout_key)


class Conv(nnx.Module):
    """A convolution [b, h, w, in] -> [b, h', w', out], channels last."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        size: int,
        *,
        rngs: nnx.Rngs,
        stride: int = 1,
        padding: int = 0,
        use_bias: bool = True,
        stack: tuple[int, ...] = (),
    ):
        layers: Axes = ("layers", *(None,) * (len(stack) - 1)) if stack else ()
        kernel = normal(rngs, (*stack, size, size, in_dim, out_dim), (in_dim * size**2) ** -0.5)
        self.kernel = nnx.Param(kernel, axes=(*layers, None, None, "embed", "mlp"))
        self.bias = (
            nnx.Param(jnp.zeros((*stack, out_dim)), axes=(*layers, "mlp")) if use_bias else None
        )
        self.stride, self.padding = stride, padding

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        bias = None if self.bias is None else self.bias[...]
        return conv(x, self.kernel[...], bias, stride=self.stride, padding=self.padding)


class PatchConv(nnx.Module):
    """A convolution whose stride equals its kernel size, as a matrix product over patches.

    With `transposed` it is the corresponding transposed convolution: one cell becomes a patch. The
    kernel is stored as [row, column, in, out]; if transposed, as [in, row, column, out].
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        patch: int,
        *,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        transposed: bool = False,
    ):
        shape = (in_dim, patch, patch, out_dim) if transposed else (patch, patch, in_dim, out_dim)
        axes = ("embed", None, None, "mlp") if transposed else (None, None, "embed", "mlp")
        fan_in = in_dim if transposed else in_dim * patch**2
        self.kernel = nnx.Param(normal(rngs, shape, fan_in**-0.5), axes=axes)
        self.bias = nnx.Param(jnp.zeros(out_dim), axes=(None,)) if use_bias else None
        self.patch, self.transposed = patch, transposed

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        kernel, bias = self.kernel[...], None if self.bias is None else self.bias[...]
        if not self.transposed:
            return linear(patchify(x, self.patch), kernel.reshape(-1, kernel.shape[-1]), bias)
        y = unpatchify(linear(x, kernel.reshape(kernel.shape[0], -1)), self.patch)
        return y if bias is None else y + broadcast_last(bias, y)


class Embedding(nnx.Module):
    """An embedding table; the id -1 is embedded as zeros."""

    def __init__(self, num: int, dim: int, axes: Axes, *, rngs: nnx.Rngs):
        self.table = nnx.Param(normal(rngs, (num, dim), 1 / math.sqrt(dim)), axes=axes)

    def __call__(self, ids: Int[Array, "*batch"], dtype: DTypeLike) -> Float[Array, "*batch d"]:
        rows = self._rows(jnp.maximum(ids, 0)).astype(dtype)
        return jnp.where((ids >= 0)[..., None], rows, 0)

    def _rows(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch d"]:
        """Return rows of the table; on a mesh, from each copy of it for its own part of the batch.

        Else XLA computes the gradient of every copy from the complete batch, which it gathers.
        """
        table, copies = self.table[...], num_shards("copies")
        if copies == 1 or ids.shape[0] % copies:
            return table[ids]
        tables = jnp.broadcast_to(table, (copies, *table.shape))
        tables = constrain(tables, "copies", *self.table.get_metadata()["axes"])
        parts = ids.reshape(copies, ids.shape[0] // copies, *ids.shape[1:])
        rows = jax.vmap(lambda table, ids: table[ids])(tables, parts)
        return rows.reshape(*ids.shape, table.shape[1])
