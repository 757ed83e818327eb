"""Floating-point operations of the model's parts, from their sizes. A multiply-add counts two.
Where a part waits for memory instead, the bytes it reads.

XLA's own count sees a scanned layer once (ecosystem notes), so it is done by hand. Norms, softmax
and activations are left out: they are below a percent.
"""

from __future__ import annotations

import math

from glamm_jax.config import CLIPConfig, LlamaConfig, SAMConfig


def product(rows: int, inner: int, columns: int) -> int:
    """[rows, inner] @ [inner, columns]."""
    return 2 * rows * inner * columns


def attention(queries: int, keys: int, width: int) -> int:
    """Scores and their product with the values, over all heads together."""
    return 2 * product(queries, width, keys)


def clip(config: CLIPConfig) -> int:
    """One image, up to the last hidden state that anybody reads."""
    tokens, dim = config.num_patches + 1, config.hidden_dim
    patches = product(config.num_patches, 3 * config.patch_size**2, dim)
    layer = product(tokens, dim, 4 * dim) + 2 * product(tokens, dim, config.mlp_dim)
    return patches + config.depth * (layer + attention(tokens, tokens, dim))


def _sam_block(config: SAMConfig, window: int | None) -> int:
    """One block; windows reach beyond the map, and their padding is computed too."""
    dim, grid = config.hidden_dim, config.grid_size
    side = window or grid
    windows = math.ceil(grid / side) ** 2
    tokens = windows * side**2
    relative = 2 * product(tokens, dim, side)  # with every key row and every key column
    mlp = 2 * product(grid**2, dim, config.mlp_dim)
    heads = windows * attention(side**2, side**2, dim)
    return product(tokens, dim, 4 * dim) + heads + relative + mlp


def sam_encoder(config: SAMConfig) -> int:
    """One image of the padded canvas."""
    tokens, dim, out = config.grid_size**2, config.hidden_dim, config.out_dim
    patches = product(tokens, 3 * config.patch_size**2, dim)
    neck = product(tokens, dim, out) + product(tokens, 9 * out, out)
    windowed = len(config.window_blocks) * _sam_block(config, config.window_size)
    wide = len(config.global_blocks) * _sam_block(config, None)
    return patches + windowed + wide + neck


def llama_linears(config: LlamaConfig, tokens: int) -> int:
    """The seven projections of every layer."""
    dim = config.hidden_dim
    layer = 4 * product(tokens, dim, dim) + 3 * product(tokens, dim, config.mlp_dim)
    return config.num_layers * layer


def llama_attention(config: LlamaConfig, tokens: int) -> int:
    """Causal, so half of the scores."""
    return config.num_layers * attention(tokens, tokens, config.hidden_dim) // 2


def llama_head(config: LlamaConfig, tokens: int) -> int:
    """Logits of this many positions."""
    return product(tokens, config.hidden_dim, config.vocab_size)


def llama_prefill(config: LlamaConfig, tokens: int) -> int:
    """A prompt through all layers and one row of logits."""
    layers = llama_linears(config, tokens) + llama_attention(config, tokens)
    return layers + llama_head(config, 1)


def llama_step(config: LlamaConfig, context: int) -> int:
    """One more token of one row: every layer, attention to its context, logits."""
    heads = config.num_layers * attention(1, context, config.hidden_dim)
    return llama_linears(config, 1) + heads + llama_head(config, 1)


def llama_step_bytes(config: LlamaConfig, rows: int, context: int, width: int = 2) -> int:
    """Read to choose one more token in every row, `width` bytes a number: all weights once, and
    every row's keys and values of so many tokens. Of the embeddings only a row is read.
    """
    dim = config.hidden_dim
    layer = 4 * dim * dim + 3 * dim * config.mlp_dim
    weights = config.num_layers * layer + dim * config.vocab_size
    return width * (weights + rows * context * 2 * config.num_layers * dim)
