"""FLOPs of the parts of the model, from their sizes; of decoding also the bytes that are read.

A multiply-add counts as two FLOPs. XLA's cost analysis counts a scanned layer only once, so these
counts are analytic. Norms, softmax and activations, less than a percent, are not counted.
"""

from __future__ import annotations

import math

from glamm_jax.config import (
    PROJECTIONS,
    CLIPConfig,
    GLaMMConfig,
    LlamaConfig,
    RegionConfig,
    SAMConfig,
)


def matmul(rows: int, inner: int, columns: int) -> int:
    """Count [rows, inner] @ [inner, columns].

    Args:
        rows: of the first matrix.
        inner: the dimension that is summed over.
        columns: of the second matrix.
    """
    return 2 * rows * inner * columns


def attention(queries: int, keys: int, width: int) -> int:
    """Count the attention scores and their product with the values.

    Args:
        queries: number of tokens.
        keys: number of tokens.
        width: of all heads together.
    """
    return 2 * matmul(queries, width, keys)


def clip(config: CLIPConfig) -> int:
    """Count one image, up to the last hidden state that is used."""
    tokens, dim = config.num_patches + 1, config.hidden_dim
    patches = matmul(config.num_patches, 3 * config.patch_size**2, dim)
    layer = matmul(tokens, dim, 4 * dim) + 2 * matmul(tokens, dim, config.mlp_dim)
    return patches + config.num_computed_layers * (layer + attention(tokens, tokens, dim))


def _sam_block(config: SAMConfig, window: int | None) -> int:
    """Count one block. The padding of windows that extend beyond the map is computed, too."""
    dim, grid = config.hidden_dim, config.grid_size
    side = window or grid
    windows = math.ceil(grid / side) ** 2
    tokens = windows * side**2
    relative = 2 * matmul(tokens, dim, side)  # with every row and every column of keys
    mlp = 2 * matmul(grid**2, dim, config.mlp_dim)
    heads = windows * attention(side**2, side**2, dim)
    return matmul(tokens, dim, 4 * dim) + heads + relative + mlp


def sam_encoder(config: SAMConfig) -> int:
    """Count one padded image."""
    tokens, dim, out = config.grid_size**2, config.hidden_dim, config.out_dim
    patches = matmul(tokens, 3 * config.patch_size**2, dim)
    neck = matmul(tokens, dim, out) + matmul(tokens, 9 * out, out)
    windowed = len(config.window_blocks) * _sam_block(config, config.window_size)
    full = len(config.global_blocks) * _sam_block(config, None)
    return patches + windowed + full + neck


def llama_linears(config: LlamaConfig, tokens: int) -> int:
    """Count the seven projections of every layer."""
    dims = (config.projection_dims(name) for name in PROJECTIONS)
    return config.num_layers * sum(matmul(tokens, *widths) for widths in dims)


def llama_attention(config: LlamaConfig, tokens: int) -> int:
    """Count the attention of every layer. It is causal: half of the scores."""
    return config.num_layers * attention(tokens, tokens, config.query_dim) // 2


def llama_head(config: LlamaConfig, tokens: int) -> int:
    """Count the logits of so many positions."""
    return matmul(tokens, config.hidden_dim, config.vocab_size)


def llama_prefill(config: LlamaConfig, tokens: int) -> int:
    """Count a prompt through all layers, and the logits of its last position."""
    layers = llama_linears(config, tokens) + llama_attention(config, tokens)
    return layers + llama_head(config, 1)


def llama_step(config: LlamaConfig, context: int) -> int:
    """Count one decoding step of one row: every layer, attention to `context` tokens, logits."""
    heads = config.num_layers * attention(1, context, config.query_dim)
    return llama_linears(config, 1) + heads + llama_head(config, 1)


def llama_step_bytes(config: LlamaConfig, rows: int, context: int, width: int = 2) -> int:
    """Count the bytes that one decoding step reads: all weights once, and the KV cache of each row.

    Args:
        config: of the language model.
        rows: of the batch.
        context: tokens in the cache of each row.
        width: bytes per number.
    """
    layer = sum(math.prod(config.projection_dims(name)) for name in PROJECTIONS)
    head = config.hidden_dim * config.vocab_size  # of the embeddings one row only, unless tied
    cache = rows * context * 2 * config.num_layers * config.kv_dim
    return width * (config.num_layers * layer + head + cache)


def lora(config: GLaMMConfig, tokens: int) -> int:
    """Count both matrices of every LoRA adapter."""
    if config.lora is None:
        return 0
    widths = sum(sum(config.llama.projection_dims(name)) for name in config.lora.targets)
    return config.llama.num_layers * matmul(tokens, config.lora.rank, widths)


def projector(config: GLaMMConfig, vectors: int) -> tuple[int, int]:
    """Count each of the two layers of the V-L projector, for so many image or region features."""
    width = config.llama.hidden_dim
    return matmul(vectors, config.clip.hidden_dim, width), matmul(vectors, width, width)


def text_projection(config: GLaMMConfig, masks: int) -> int:
    """Count the L-P projector, which runs on the hidden states of [SEG] only."""
    width = config.llama.hidden_dim
    return matmul(masks, width, width) + matmul(masks, width, config.sam.out_dim)


def region_input(config: GLaMMConfig, images: int) -> int:
    """Count the projection of CLIP's levels, before they are upsampled."""
    clip, levels = config.clip, len(config.clip.region_layers)
    return images * levels * matmul(clip.num_patches, clip.hidden_dim + 2, clip.hidden_dim)


def region_fusion(config: GLaMMConfig, images: int) -> int:
    """Count the convolutions of all fusion rounds over the feature pyramid."""
    clip, region = config.clip, config.region
    cells = sum((clip.grid_size * 2**level) ** 2 for level in range(len(clip.region_layers)))
    return images * region.num_fusion_rounds * matmul(cells, 9 * clip.hidden_dim, clip.hidden_dim)


def region_boxes(config: GLaMMConfig, regions: int) -> int:
    """Count what follows the pooling of the boxes, up to the language model's width."""
    region, width = config.region, config.clip.hidden_dim
    bins = region.roi_size**2
    box = len(config.clip.region_layers) * matmul(bins, 9 * width, width)
    box += matmul(1, bins * width, region.mid_dim) + _box_position(region)
    if region.output == "own":
        box += matmul(1, region.mid_dim, config.llama.hidden_dim)
    return regions * box


def _box_position(config: RegionConfig) -> int:
    return matmul(1, 4, config.position_dim) + matmul(1, config.position_dim, config.mid_dim)


def mask_decoder(config: SAMConfig, masks: int) -> int:
    """Count the mask decoder with one text prompt a mask."""
    cells, dim, half = config.grid_size**2, config.out_dim, config.out_dim // 2
    tokens = config.num_multimasks + 3  # of masks, of the IoU, and the prompt
    # From tokens to image or from image to tokens: the same number of FLOPs.
    cross = 2 * matmul(cells, dim, half) + 2 * matmul(tokens, dim, half)
    cross += attention(tokens, cells, half)
    block = 4 * matmul(tokens, dim, dim) + attention(tokens, tokens, dim) + 2 * cross
    block += 2 * matmul(tokens, dim, config.decoder_mlp_dim)
    upscaling = matmul(cells, dim, dim) + matmul(4 * cells, dim // 4, dim // 2)
    readout = matmul(config.mask_size**2, dim // 8, 1)
    return masks * (config.decoder_layers * block + cross + upscaling + readout)


def mask_resizing(config: SAMConfig, masks: int, height: int, width: int) -> tuple[int, int]:
    """Count the resizing of masks to the original image size.

    Args:
        config: sizes of SAM.
        masks: number of masks.
        height: of the image in pixels.
        width: of the image in pixels.

    Returns:
        FLOPs of forming the two resizing matrices, and of applying them.
    """
    size, canvas = config.mask_size, config.image_size
    matrices = matmul(height, canvas, size) + matmul(width, canvas, size)
    return masks * matrices, masks * (matmul(height, size, size) + matmul(width, size, height))
