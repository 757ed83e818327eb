"""Floating-point operations of the model's parts, from their sizes. A multiply-add counts two.
Where a part waits for memory instead, the bytes it reads.

XLA's own count sees a scanned layer once (ecosystem notes), so it is done by hand. Norms, softmax
and activations are left out: they are below a percent.
"""

from __future__ import annotations

import math

from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig, RegionConfig, SAMConfig


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
    return patches + config.num_computed_layers * (layer + attention(tokens, tokens, dim))


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


def lora(config: GLaMMConfig, tokens: int) -> int:
    """Both matrices of every adapter."""
    if config.lora is None:
        return 0
    ends = {"gate_proj": 1, "up_proj": 1, "down_proj": 1}
    dim, mlp_dim, rank = config.llama.hidden_dim, config.llama.mlp_dim, config.lora.rank
    widths = sum(dim + (mlp_dim if name in ends else dim) for name in config.lora.targets)
    return config.llama.num_layers * product(tokens, rank, widths)


def projector(config: GLaMMConfig, vectors: int) -> tuple[int, int]:
    """The two layers of V-L, which image tokens go through, and regions where they share it."""
    width = config.llama.hidden_dim
    return product(vectors, config.clip.hidden_dim, width), product(vectors, width, width)


def text_projection(config: GLaMMConfig, masks: int) -> int:
    """L-P, of the hidden states that emitted [SEG] alone."""
    width = config.llama.hidden_dim
    return product(masks, width, width) + product(masks, width, config.sam.out_dim)


def region_input(config: GLaMMConfig, images: int) -> int:
    """CLIP's levels, projected before they are enlarged."""
    clip, levels = config.clip, len(config.clip.region_layers)
    return images * levels * product(clip.num_patches, clip.hidden_dim + 2, clip.hidden_dim)


def region_fusion(config: GLaMMConfig, images: int) -> int:
    """The convolutions of all rounds over the whole pyramid."""
    clip, region = config.clip, config.region
    cells = sum((clip.grid_size * 2**level) ** 2 for level in range(len(clip.region_layers)))
    return images * region.num_fusion_rounds * product(cells, 9 * clip.hidden_dim, clip.hidden_dim)


def region_boxes(config: GLaMMConfig, regions: int) -> int:
    """What follows the pooling of a box, to the language model's width."""
    region, width = config.region, config.clip.hidden_dim
    bins = region.roi_size**2
    box = len(config.clip.region_layers) * product(bins, 9 * width, width)
    box += product(1, bins * width, region.mid_dim) + _box_position(region)
    if region.output == "own":
        box += product(1, region.mid_dim, config.llama.hidden_dim)
    return regions * box


def _box_position(config: RegionConfig) -> int:
    return product(1, 4, config.position_dim) + product(1, config.position_dim, config.mid_dim)


def mask_decoder(config: SAMConfig, masks: int) -> int:
    """Of one text prompt each: the two-way blocks, the enlarged embedding and its read-out."""
    cells, dim, half = config.grid_size**2, config.out_dim, config.out_dim // 2
    tokens = config.num_multimasks + 3  # of masks, of the IoU, and the prompt
    across = product(cells, dim, half) + product(tokens, dim, half)  # queries, or keys, or values
    look = attention(tokens, cells, half)
    to_image = 2 * product(cells, dim, half) + 2 * product(tokens, dim, half) + look
    block = 4 * product(tokens, dim, dim) + attention(tokens, tokens, dim) + to_image
    block += 2 * product(tokens, dim, config.decoder_mlp_dim)
    block += across + product(tokens, dim, half) + product(cells, half, dim) + look
    upscaling = product(cells, dim, dim) + product(4 * cells, dim // 4, dim // 2)
    readout = product(config.mask_size**2, dim // 8, 1)
    return masks * (config.decoder_layers * block + to_image + upscaling + readout)


def mask_resizing(config: SAMConfig, masks: int, height: int, width: int) -> tuple[int, int]:
    """Making the two matrices that bring a mask to its original size, and applying them."""
    size, canvas = config.mask_size, config.image_size
    matrices = product(height, canvas, size) + product(width, canvas, size)
    return masks * matrices, masks * (product(height, size, size) + product(width, size, height))
