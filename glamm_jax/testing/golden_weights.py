"""The golden rule: weights and inputs that depend on name, shape and salt only.

A stream of normal numbers is keyed by the CRC of salt + name. A tensor is shift + scale * stream;
name and shape determine scale and shift. The golden folders were recorded with these values, which
can be generated anywhere and need not be stored.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, UInt8

Shape = Sequence[int]

# Buffers that the model's code computes.
_COMPUTED_ENDINGS = (
    *("inv_freq", "position_ids", "cos_cached", "sin_cached"),
    *("pixel_mean", "pixel_std"),
)
# Embeddings and learned vectors; their scale is 0.5 for any shape.
_TABLE_PARTS = (
    *("embed_tokens.weight", "position_embedding.weight", "class_embedding", "pos_embed"),
    *("point_embeddings.", "not_a_point_embed.", "no_mask_embed.", "iou_token.", "mask_tokens."),
)
# Stored as [in, out, height, width]; every other kernel as [out, in, ...].
_TRANSPOSED_ENDINGS = ("output_upscaling.0.weight", "output_upscaling.3.weight")


def normal(name: str, shape: Shape, salt: str = "") -> Float32[np.ndarray, "..."]:
    """Generate standard normal numbers.

    Args:
        name: seeds the generator together with the salt.
        shape: of the array.
        salt: put before the name.
    """
    bits = np.random.Philox(key=zlib.crc32(f"{salt}{name}".encode()))
    return np.random.Generator(bits).standard_normal(tuple(map(int, shape)), dtype=np.float32)


def scale_and_shift(name: str, shape: Shape) -> tuple[float, float]:
    """Return (scale, shift) of a tensor; the first rule that matches applies."""
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
    """Generate the tensor of a state-dict name in torch's layout.

    Args:
        name: of the tensor.
        shape: of the tensor.
        salt: as for `normal`.

    Returns:
        float32, or None if it is a buffer that models compute.
    """
    if name.endswith(_COMPUTED_ENDINGS):
        return None
    scale, shift = scale_and_shift(name, shape)
    out = normal(name, shape, salt)
    out *= np.float32(scale)
    out += np.float32(shift)
    return out


def blocky(name: str, shape: Shape, block: int, salt: str = "") -> Float32[np.ndarray, "n c h w"]:
    """Generate an image-like NCHW input: tiles of constant value, plus noise of scale 0.25.

    Args:
        name: of the input.
        shape: NCHW.
        block: side of a tile, in pixels.
        salt: of the random streams.
    """
    num_images, channels, height, width = map(int, shape)
    grid = (num_images, channels, math.ceil(height / block), math.ceil(width / block))
    tiles = _upsample(normal(f"input:{name}:coarse", grid, salt), block, height, width)
    return tiles + np.float32(0.25) * normal(f"input:{name}:fine", shape, salt)


def image_u8(name: str, h: int, w: int, salt: str = "") -> UInt8[np.ndarray, "h w 3"]:
    """Generate a synthetic photograph: coloured tiles of 16 pixels, a diagonal gradient, noise.

    Args:
        name: of the image.
        h: height in pixels.
        w: width in pixels.
        salt: of the random streams.
    """
    grid = (3, math.ceil(h / 16), math.ceil(w / 16))
    # The rule says [1, 3, ...]; the stream is the same without the leading axis.
    tiles = _upsample(normal(f"image:{name}:coarse", grid, salt), 16, h, w)
    fine = normal(f"image:{name}:fine", (3, h, w), salt)
    rows = np.linspace(-1, 1, h, dtype=np.float32)[None, :, None]
    columns = np.linspace(-1, 1, w, dtype=np.float32)[None, None, :]
    # The order of these float32 sums is part of the rule: each rounds once.
    levels = 120 + 45 * tiles + 30 * (rows + columns) + 10 * fine
    return np.clip(np.floor(levels), 0, 255).astype(np.uint8).transpose(1, 2, 0)


def _upsample(coarse: np.ndarray, block: int, height: int, width: int) -> np.ndarray:
    """Repeat every number of the last two axes as a tile, and crop."""
    rows = coarse.repeat(block, axis=-2)[..., :height, :]
    return rows.repeat(block, axis=-1)[..., :width]
