"""SAM's image encoder: a ViT with windowed attention in most blocks and global attention in a few.

    pixels -> patches + positions -> blocks -> neck -> embedding

All windowed blocks are one stack, and all global blocks another, so each kind is compiled once for
any depth and any order.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import SAMConfig
from glamm_jax.nn.attention import attention
from glamm_jax.nn.initializers import normal
from glamm_jax.nn.layer_stack import group_blocks, scan_blocks, slice_blocks
from glamm_jax.nn.linear import Conv, Linear, PatchConv
from glamm_jax.nn.mlp import TransformerMLP
from glamm_jax.nn.norm import LayerNorm
from glamm_jax.parallel import constrain

NORM_EPS = 1e-6


def relative_position_vectors(table: Float[Array, "l k"], size: int) -> Float[Array, "size size k"]:
    """Return for query i and key j along one side the row i - j + size - 1 of the table."""
    index = jnp.arange(size)
    return table[index[:, None] - index[None, :] + size - 1]


def relative_position_attention(
    q: Float[Array, "b s s n k"],
    k: Float[Array, "b s s n k"],
    v: Float[Array, "b s s n k"],
    table_h: Float[Array, "l k"],
    table_w: Float[Array, "l k"],
) -> Float[Array, "b s s n k"]:
    """Compute attention over a square map with decomposed relative position biases.

    The bias q . (table_h[row distance] + table_w[column distance]) is linear in q, so it becomes a
    part of the dot product: q is extended by its products with every key row and every key column,
    k by its one-hot row and column. No bias map is materialized, and any attention kernel works.

    Args:
        q: queries.
        k: keys.
        v: values.
        table_h: vectors of the row distances, of length 2 * s - 1.
        table_w: vectors of the column distances, of the same length.

    Raises:
        ValueError: a table does not match the size of the map. The original interpolates it; no
            checkpoint needs that.

    Source: model/SAM/modeling/image_encoder.py add_decomposed_rel_pos; the bias uses unscaled q.
    """
    b, size, _, n, width = q.shape
    if table_h.shape[0] != 2 * size - 1 or table_w.shape[0] != 2 * size - 1:
        raise ValueError(
            f"a map of {size} x {size} needs tables of {2 * size - 1} relative positions, "
            f"not {table_h.shape[0]} and {table_w.shape[0]}"
        )
    rows = jnp.einsum(
        "bhwnk,hjk->bhwnj", q, relative_position_vectors(table_h.astype(q.dtype), size)
    )
    columns = jnp.einsum(
        "bhwnk,wjk->bhwnj", q, relative_position_vectors(table_w.astype(q.dtype), size)
    )
    one_hot = jnp.eye(size, dtype=k.dtype)
    key_rows = jnp.broadcast_to(one_hot[None, :, None, None, :], (b, size, size, n, size))
    key_columns = jnp.broadcast_to(one_hot[None, None, :, None, :], (b, size, size, n, size))
    scale = jnp.asarray(width**-0.5, q.dtype)
    queries = jnp.concatenate([q * scale, rows, columns], axis=-1)
    keys = jnp.concatenate([k, key_rows, key_columns], axis=-1)
    flat = lambda x: x.reshape(b, size * size, n, x.shape[-1])  # noqa: E731
    return attention(flat(queries), flat(keys), flat(v), scale=1.0).reshape(v.shape)


def to_windows(x: Float[Array, "b h w c"], size: int) -> Float[Array, "windows size size c"]:
    """Cut maps into windows, in row-major order, padded with zeros at the bottom and the right."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = x.reshape(b, rows, size, columns, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b * rows * columns, size, size, c)


def from_windows(
    x: Float[Array, "windows size size c"], height: int, width: int
) -> Float[Array, "b height width c"]:
    """Invert `to_windows` and drop the padding.

    Args:
        x: windows.
        height: of the maps.
        width: of the maps.
    """
    num_windows, size, _, c = x.shape
    rows, columns = -(-height // size), -(-width // size)
    b = num_windows // (rows * columns)
    x = x.reshape(b, rows, columns, size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * size, columns * size, c)[:, :height, :width]


class RelativePositionAttention(nnx.Module):
    """Multi-head self-attention over square maps with relative position biases."""

    def __init__(self, dim: int, num_heads: int, size: int, *, rngs: nnx.Rngs, stack: tuple):
        self.qkv = Linear(dim, 3 * dim, ("embed", "heads"), rngs=rngs, stack=stack)
        self.proj = Linear(dim, dim, ("heads", "embed"), rngs=rngs, stack=stack)
        table_shape = (*stack, 2 * size - 1, dim // num_heads)
        axes = ("layers", None, None) if stack else (None, None)
        self.rel_pos_h = nnx.Param(normal(rngs, table_shape, 0.02), axes=axes)
        self.rel_pos_w = nnx.Param(normal(rngs, table_shape, 0.02), axes=axes)
        self.num_heads = num_heads

    def __call__(self, x: Float[Array, "b s s d"]) -> Float[Array, "b s s d"]:
        b, s, _, d = x.shape
        qkv = self.qkv(x).reshape(b, s, s, 3, self.num_heads, d // self.num_heads)
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        out = relative_position_attention(q, k, v, self.rel_pos_h[...], self.rel_pos_w[...])
        return self.proj(out.reshape(b, s, s, d))


class SAMBlock(nnx.Module):
    """A pre-norm transformer block on maps; `window` is the side of its windows, None: global."""

    def __init__(self, config: SAMConfig, window: int | None, *, rngs: nnx.Rngs, stack: tuple = ()):
        dim, size = config.hidden_dim, window or config.grid_size
        self.norm1 = LayerNorm(dim, NORM_EPS, stack=stack)
        self.attention = RelativePositionAttention(
            dim, config.num_heads, size, rngs=rngs, stack=stack
        )
        self.norm2 = LayerNorm(dim, NORM_EPS, stack=stack)
        self.mlp = TransformerMLP(dim, config.mlp_dim, "gelu", rngs=rngs, stack=stack)
        self.window = window

    def __call__(self, x: Float[Array, "g h w d"]) -> Float[Array, "g h w d"]:
        g, h, w, d = x.shape
        y = self.norm1(x)
        if self.window is None:
            y = self.attention(y)
        else:
            # Windows are padded after the norm: padded cells are zero, and are attended to.
            y = from_windows(self.attention(to_windows(y, self.window)), h, w)
        x = x + y
        y = self.mlp(self.norm2(x).reshape(g, h * w, d))
        return constrain(x + y.reshape(x.shape), "batch", None, None, None)


class Neck(nnx.Module):
    """A 1x1 and a 3x3 convolution to the width of the decoder, each with a norm over channels."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        dim, out = config.hidden_dim, config.out_dim
        self.reduce = Linear(dim, out, ("embed", "mlp"), rngs=rngs, use_bias=False)
        self.norm1 = LayerNorm(out, NORM_EPS)
        self.mix = Conv(out, out, 3, rngs=rngs, padding=1, use_bias=False)
        self.norm2 = LayerNorm(out, NORM_EPS)

    def __call__(self, x: Float[Array, "g s s d"]) -> Float[Array, "g s s c"]:
        return self.norm2(self.mix(self.norm1(self.reduce(x))))


class BlockGroup(nnx.Module):
    """A stack of windowed blocks followed by one global block; either may be None."""

    def __init__(self, window_blocks: SAMBlock | None, global_block: SAMBlock | None):
        self.window_blocks, self.global_block = window_blocks, global_block

    def __call__(self, x: Float[Array, "g h w d"]) -> Float[Array, "g h w d"]:
        if self.window_blocks is not None:
            x = scan_blocks(lambda block, x, _: block(x), self.window_blocks, x)
        return x if self.global_block is None else self.global_block(x)


class BlockPattern(NamedTuple):
    """`num_groups` times: `num_windowed` windowed blocks, then `num_global` global blocks."""

    num_groups: int
    num_windowed: int
    num_global: int


def block_patterns(is_global: list[bool]) -> list[BlockPattern]:
    """Describe a sequence of blocks by as few repeating patterns as possible.

    W W G W W G W  ->  2 groups of (2 windowed, 1 global), 1 group of 1 windowed
    """
    groups: list[tuple[int, int]] = []
    num_windowed = 0
    for is_global_block in is_global:
        if is_global_block:
            groups.append((num_windowed, 1))
        num_windowed = 0 if is_global_block else num_windowed + 1
    if num_windowed:
        groups.append((num_windowed, 0))
    return [BlockPattern(len(list(equal)), *group) for group, equal in groupby(groups)]


class ImageEncoder(nnx.Module):
    """The image encoder, from normalized and then zero-padded images to embeddings."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        grid, dim = config.grid_size, config.hidden_dim
        self.patch_embed = PatchConv(3, dim, config.patch_size, rngs=rngs)
        positions = normal(rngs, (grid, grid, dim), 0.02)
        self.pos_embed = nnx.Param(positions, axes=(None, None, "embed"))
        num_windowed, num_global = len(config.window_blocks), len(config.global_blocks)
        self.window_blocks = (
            SAMBlock(config, config.window_size, rngs=rngs, stack=(num_windowed,))
            if num_windowed
            else None
        )
        self.global_blocks = (
            SAMBlock(config, None, rngs=rngs, stack=(num_global,)) if num_global else None
        )
        self.neck = Neck(config, rngs=rngs)
        self.config = config

    def __call__(self, pixels: Float[Array, "g h w 3"]) -> Float[Array, "g s s c"]:
        """Encode images to one embedding per patch, channels last.

        Source: model/SAM/modeling/image_encoder.py ImageEncoderViT.
        """
        return self.neck(self.run_blocks(self.embed_patches(pixels), 0, self.config.num_layers))

    def embed_patches(self, pixels: Float[Array, "g h w 3"]) -> Float[Array, "g s s d"]:
        """Embed patches and add their positions: the input of block 0."""
        x = self.patch_embed(pixels)
        positions = self.pos_embed[...].astype(x.dtype)
        return constrain(x + positions[None], "batch", None, None, None)

    def run_blocks(
        self, x: Float[Array, "g s s d"], start: int, stop: int
    ) -> Float[Array, "g s s d"]:
        """Run the blocks start to stop - 1, numbered as in the checkpoint.

        Each repeating pattern is one scan over its groups.
        """
        is_global = [i in self.config.global_blocks for i in range(self.config.num_layers)]
        window_start, global_start = start - sum(is_global[:start]), sum(is_global[:start])
        for num_groups, num_windowed, num_global in block_patterns(is_global[start:stop]):
            window_stop = window_start + num_groups * num_windowed
            global_stop = global_start + num_groups * num_global
            window_part = global_part = None
            if num_windowed and self.window_blocks is not None:
                window_part = slice_blocks(self.window_blocks, window_start, window_stop)
                window_part = group_blocks(window_part, num_groups)
            if num_global and self.global_blocks is not None:
                global_part = slice_blocks(self.global_blocks, global_start, global_stop)
            group = BlockGroup(window_part, global_part)
            x = scan_blocks(lambda group, x, _: group(x), group, x)
            window_start, global_start = window_stop, global_stop
        return x
