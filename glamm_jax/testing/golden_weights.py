"""The rule by which the golden folders' weights and inputs are made: numpy, name and shape decide.

A stream of normal numbers is keyed by the CRC of salt + name; a tensor is shift + scale * stream,
with the scale its name and shape call for. Nothing is stored, everything can be made again.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8

Shape = Sequence[int]

# Filled in by the model's own code.
_COMPUTED_ENDINGS = (
    *("inv_freq", "position_ids", "cos_cached", "sin_cached"),
    *("pixel_mean", "pixel_std"),
)
# Looked up by index, or learned vectors: they keep half the unit scale whatever their shape.
_TABLE_PARTS = (
    *("embed_tokens.weight", "position_embedding.weight", "class_embedding", "pos_embed"),
    *("point_embeddings.", "not_a_point_embed.", "no_mask_embed.", "iou_token.", "mask_tokens."),
)
# Stored [in, out, height, width]; every other kernel has its outputs first.
_TRANSPOSED_ENDINGS = ("output_upscaling.0.weight", "output_upscaling.3.weight")


def normal(name: str, shape: Shape, salt: str = "") -> Float32[np.ndarray, "..."]:
    """Standard normal numbers that depend on salt, name and shape alone."""
    bits = np.random.Philox(key=zlib.crc32(f"{salt}{name}".encode()))
    return np.random.Generator(bits).standard_normal(tuple(map(int, shape)), dtype=np.float32)


def scale_and_shift(name: str, shape: Shape) -> tuple[float, float]:
    """What a tensor's stream is multiplied by, then what is added; the first match decides."""
    if "positional_encoding_gaussian_matrix" in name:
        return 1.0, 0.0
    # `pos_embedd...` is the region encoder's position MLP, not a table.
    if "pos_embedd" not in name and any(part in name for part in _TABLE_PARTS):
        return 0.5, 0.0
    if len(shape) <= 1:
        return 0.1, 1.0 if name.endswith("weight") else 0.0
    inputs = shape[:1] if name.endswith(_TRANSPOSED_ENDINGS) else shape[1:]
    return 1.0 / math.sqrt(math.prod(map(int, inputs))), 0.0


def tensor(name: str, shape: Shape, salt: str = "") -> Float32[np.ndarray, "..."] | None:
    """The golden tensor of a state-dict name, in torch's layout; None if models compute it."""
    if name.endswith(_COMPUTED_ENDINGS):
        return None
    scale, shift = scale_and_shift(name, shape)
    out = normal(name, shape, salt)
    out *= np.float32(scale)
    out += np.float32(shift)
    return out


def blocky(name: str, shape: Shape, block: int, salt: str = "") -> Float32[np.ndarray, "n c h w"]:
    """An image-like NCHW input: tiles of block x block pixels of one value, and a quarter noise."""
    images, channels, height, width = map(int, shape)
    tiles = (images, channels, math.ceil(height / block), math.ceil(width / block))
    tile = _tiled(normal(f"input:{name}:coarse", tiles, salt), block, height, width)
    return tile + np.float32(0.25) * normal(f"input:{name}:fine", shape, salt)


def image_u8(name: str, h: int, w: int, salt: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """A photograph's stand-in: coloured tiles of 16 pixels, a diagonal gradient and fine noise."""
    tiles = (3, math.ceil(h / 16), math.ceil(w / 16))
    # The rule draws [1, 3, ...]; the stream is the same without the leading axis.
    tile = _tiled(normal(f"image:{name}:coarse", tiles, salt), 16, h, w)
    fine = normal(f"image:{name}:fine", (3, h, w), salt)
    rows = np.linspace(-1, 1, h, dtype=np.float32)[None, :, None]
    columns = np.linspace(-1, 1, w, dtype=np.float32)[None, None, :]
    # The order of these float32 sums is part of the rule: each rounds once.
    levels = 120 + 45 * tile + 30 * (rows + columns) + 10 * fine
    return np.clip(np.floor(levels), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _tiled(coarse: np.ndarray, block: int, height: int, width: int) -> np.ndarray:
    """Each number of the last two axes as a tile, cut to the size wanted."""
    tall = coarse.repeat(block, axis=-2)[..., :height, :]
    return tall.repeat(block, axis=-1)[..., :width]
