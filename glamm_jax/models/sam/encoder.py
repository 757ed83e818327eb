"""SAM's image encoder: a ViT whose blocks attend inside windows, a few of them everywhere.

    pixels -> patches + positions -> blocks -> neck -> embedding

Blocks of one kind are one stack, so `window_blocks` and `global_blocks` are compiled once each,
whatever the depth and wherever the global ones stand.
"""

from __future__ import annotations

from itertools import groupby
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import SAMConfig
from glamm_jax.nn.attention import attention
from glamm_jax.nn.layer_stack import restack, scan_blocks, take_blocks
from glamm_jax.nn.linear import Conv, Linear, PatchConv, normal
from glamm_jax.nn.mlp import TransformerMLP
from glamm_jax.nn.norm import LayerNorm
from glamm_jax.parallel import constrain

NORM_EPS = 1e-6


def relative_rows(table: Float[Array, "l k"], size: int) -> Float[Array, "size size k"]:
    """[i, j] is the table's vector for query i and key j of one side: row i - j + size - 1."""
    place = jnp.arange(size)
    return table[place[:, None] - place[None, :] + size - 1]


def relative_attention(
    q: Float[Array, "b s s n k"],
    k: Float[Array, "b s s n k"],
    v: Float[Array, "b s s n k"],
    table_h: Float[Array, "l k"],
    table_w: Float[Array, "l k"],
) -> Float[Array, "b s s n k"]:
    """Attention over a square map with a learned bias for the distance in rows and in columns.

    The bias q . (table_h[row distance] + table_w[column distance]) is linear in q, so it rides in
    the dot product: q is lengthened by its products with every key row and every key column, k by
    the one-hot row and column it stands in. No map of biases exists, and any kernel will do.

    Source: model/SAM/modeling/image_encoder.py add_decomposed_rel_pos; the bias takes q unscaled.
    Raises: ValueError when a table is not of the map's size (none of the checkpoints needs the
        original's interpolation).
    """
    b, size, _, n, width = q.shape
    if table_h.shape[0] != 2 * size - 1 or table_w.shape[0] != 2 * size - 1:
        raise ValueError(
            f"a map of {size} x {size} needs tables of {2 * size - 1} relative positions, "
            f"not {table_h.shape[0]} and {table_w.shape[0]}"
        )
    rows = jnp.einsum("bhwnk,hjk->bhwnj", q, relative_rows(table_h.astype(q.dtype), size))
    columns = jnp.einsum("bhwnk,wjk->bhwnj", q, relative_rows(table_w.astype(q.dtype), size))
    one_hot = jnp.eye(size, dtype=k.dtype)
    key_rows = jnp.broadcast_to(one_hot[None, :, None, None, :], (b, size, size, n, size))
    key_columns = jnp.broadcast_to(one_hot[None, None, :, None, :], (b, size, size, n, size))
    scale = jnp.asarray(width**-0.5, q.dtype)
    queries = jnp.concatenate([q * scale, rows, columns], axis=-1)
    keys = jnp.concatenate([k, key_rows, key_columns], axis=-1)
    flat = lambda x: x.reshape(b, size * size, n, x.shape[-1])  # noqa: E731
    return attention(flat(queries), flat(keys), flat(v), scale=1.0).reshape(v.shape)


def to_windows(x: Float[Array, "b h w c"], size: int) -> Float[Array, "windows size size c"]:
    """Cut maps into windows, row by row, padded with zeros at the bottom and on the right."""
    b, h, w, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, -h % size), (0, -w % size), (0, 0)))
    rows, columns = x.shape[1] // size, x.shape[2] // size
    x = x.reshape(b, rows, size, columns, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b * rows * columns, size, size, c)


def from_windows(
    x: Float[Array, "windows size size c"], height: int, width: int
) -> Float[Array, "b height width c"]:
    """The inverse of `to_windows`, without the padding."""
    count, size, _, c = x.shape
    rows, columns = -(-height // size), -(-width // size)
    b = count // (rows * columns)
    x = x.reshape(b, rows, columns, size, size, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(b, rows * size, columns * size, c)[:, :height, :width]


class RelativeAttention(nnx.Module):
    """Multi-head self-attention over square maps, with `relative_attention` inside."""

    def __init__(self, dim: int, num_heads: int, size: int, *, rngs: nnx.Rngs, stack: tuple):
        self.qkv = Linear(dim, 3 * dim, ("embed", "heads"), rngs=rngs, stack=stack)
        self.proj = Linear(dim, dim, ("heads", "embed"), rngs=rngs, stack=stack)
        table = (*stack, 2 * size - 1, dim // num_heads)
        axes = ("layers", None, None) if stack else (None, None)
        self.rel_pos_h = nnx.Param(normal(rngs, table, 0.02), axes=axes)
        self.rel_pos_w = nnx.Param(normal(rngs, table, 0.02), axes=axes)
        self.num_heads = num_heads

    def __call__(self, x: Float[Array, "b s s d"]) -> Float[Array, "b s s d"]:
        b, s, _, d = x.shape
        qkv = self.qkv(x).reshape(b, s, s, 3, self.num_heads, d // self.num_heads)
        q, k, v = (qkv[..., i, :, :] for i in range(3))
        out = relative_attention(q, k, v, self.rel_pos_h[...], self.rel_pos_w[...])
        return self.proj(out.reshape(b, s, s, d))


class SAMBlock(nnx.Module):
    """A pre-norm transformer block on maps; `window` is the side of its windows, or None."""

    def __init__(self, config: SAMConfig, window: int | None, *, rngs: nnx.Rngs, stack: tuple = ()):
        dim, size = config.hidden_dim, window or config.grid_size
        self.norm1 = LayerNorm(dim, NORM_EPS, stack=stack)
        self.attention = RelativeAttention(dim, config.num_heads, size, rngs=rngs, stack=stack)
        self.norm2 = LayerNorm(dim, NORM_EPS, stack=stack)
        self.mlp = TransformerMLP(dim, config.mlp_dim, "gelu", rngs=rngs, stack=stack)
        self.window = window

    def __call__(self, x: Float[Array, "g h w d"]) -> Float[Array, "g h w d"]:
        g, h, w, d = x.shape
        y = self.norm1(x)
        if self.window is None:
            y = self.attention(y)
        else:
            # Padding follows the norm, so it is zero there, and a key like any other.
            y = from_windows(self.attention(to_windows(y, self.window)), h, w)
        x = x + y
        y = self.mlp(self.norm2(x).reshape(g, h * w, d))
        return constrain(x + y.reshape(x.shape), "batch", None, None, None)


class Neck(nnx.Module):
    """To the width of the decoder: a 1x1 and a 3x3 convolution, each with a norm over channels."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        dim, out = config.hidden_dim, config.out_dim
        self.reduce = Linear(dim, out, ("embed", "mlp"), rngs=rngs, use_bias=False)
        self.norm1 = LayerNorm(out, NORM_EPS)
        self.mix = Conv(out, out, 3, rngs=rngs, padding=1, use_bias=False)
        self.norm2 = LayerNorm(out, NORM_EPS)

    def __call__(self, x: Float[Array, "g s s d"]) -> Float[Array, "g s s c"]:
        return self.norm2(self.mix(self.norm1(self.reduce(x))))


class BlockGroup(nnx.Module):
    """A stack of windowed blocks and then one global block; either may be missing."""

    def __init__(self, windowed: SAMBlock | None, wide: SAMBlock | None):
        self.windowed, self.wide = windowed, wide

    def __call__(self, x: Float[Array, "g h w d"]) -> Float[Array, "g h w d"]:
        if self.windowed is not None:
            x = scan_blocks(lambda block, x, _: block(x), self.windowed, x)
        return x if self.wide is None else self.wide(x)


class BlockRun(NamedTuple):
    """Blocks that repeat: `groups` times `windowed` windowed ones and then `wide` global ones."""

    groups: int
    windowed: int
    wide: int


def block_runs(kinds: list[bool]) -> list[BlockRun]:
    """Blocks in order (True: global) as few repeating stretches.

    W W G W W G W  ->  2 groups of (2 windowed, 1 global), 1 group of 1 windowed
    """
    units: list[tuple[int, int]] = []
    windowed = 0
    for is_global in kinds:
        if is_global:
            units.append((windowed, 1))
        windowed = 0 if is_global else windowed + 1
    if windowed:
        units.append((windowed, 0))
    return [BlockRun(len(list(same)), *unit) for unit, same in groupby(units)]


class ImageEncoder(nnx.Module):
    """Images on the padded canvas to embeddings: `pixels` normalised first, then padded with 0."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        grid, dim = config.grid_size, config.hidden_dim
        self.patch_embed = PatchConv(3, dim, config.patch_size, rngs=rngs)
        positions = normal(rngs, (grid, grid, dim), 0.02)
        self.pos_embed = nnx.Param(positions, axes=(None, None, "embed"))
        windowed, wide = len(config.window_blocks), len(config.global_blocks)
        self.window_blocks = (
            SAMBlock(config, config.window_size, rngs=rngs, stack=(windowed,)) if windowed else None
        )
        self.global_blocks = SAMBlock(config, None, rngs=rngs, stack=(wide,)) if wide else None
        self.neck = Neck(config, rngs=rngs)
        self.config = config

    def __call__(self, pixels: Float[Array, "g h w 3"]) -> Float[Array, "g s s c"]:
        """Channels last, on the grid of patches.

        Source: model/SAM/modeling/image_encoder.py ImageEncoderViT.
        """
        return self.neck(self.run_blocks(self.embed_patches(pixels), 0, self.config.num_layers))

    def embed_patches(self, pixels: Float[Array, "g h w 3"]) -> Float[Array, "g s s d"]:
        """Patches with their positions added: the input of block 0."""
        x = self.patch_embed(pixels)
        positions = self.pos_embed[...].astype(x.dtype)
        return constrain(x + positions[None], "batch", None, None, None)

    def run_blocks(
        self, x: Float[Array, "g s s d"], start: int, stop: int
    ) -> Float[Array, "g s s d"]:
        """Blocks start to stop - 1, numbered as in the checkpoint.

        A stretch that repeats is one scan over its groups, so the order costs no compilation.
        """
        kinds = [i in self.config.global_blocks for i in range(self.config.num_layers)]
        window_at = start - sum(kinds[:start])
        global_at = sum(kinds[:start])
        for groups, windowed, wide in block_runs(kinds[start:stop]):
            window_end, global_end = window_at + groups * windowed, global_at + groups * wide
            window_part = global_part = None
            if windowed and self.window_blocks is not None:
                taken = take_blocks(self.window_blocks, window_at, window_end)
                window_part = restack(taken, groups)
            if wide and self.global_blocks is not None:
                global_part = take_blocks(self.global_blocks, global_at, global_end)
            group = BlockGroup(window_part, global_part)
            x = scan_blocks(lambda group, x, _: group(x), group, x)
            window_at, global_at = window_end, global_end
        return x
