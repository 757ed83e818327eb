"""The rule by which the golden folders' weights and inputs are made: numpy, name and shape decide.

A stream of normal numbers is keyed by the CRC of salt + name; a tensor is shift + scale * stream,
with the scale its name and shape call for. Nothing is stored, everything can be made again.
"""

from __future__ import annotations

import ast
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, UInt8

from glamm_jax.weights import rules

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


def leaves_by_rule(
    table: rules.Table, shapes: Mapping[str, tuple[int, ...]], prefix: str = "", salt: str = ""
) -> dict[str, np.ndarray]:
    """Every leaf of a model, made by the rule under the names that its table gives the tensors.

    Args:
        shapes: path and shape of every leaf (`weights.state.shapes`).
        prefix: what stands before the table's names in the full state dict.
    """
    tensors = torch_shapes(table, shapes)

    def read(name: str) -> np.ndarray:
        value = tensor(prefix + name, tensors[name], salt)
        if value is None:
            raise rules.WeightsError(f"{prefix}{name} is computed, not drawn")
        return value

    return rules.load(table, tensors, read, shapes)


def torch_shapes(
    table: rules.Table, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[int, ...]]:
    """Name and shape, in torch's layout, of every tensor that a model's leaves come from."""
    out = {}
    for entry in table.entries():
        shape = shapes[entry.leaf] if entry.position is None else shapes[entry.leaf][1:]
        # One byte seen through zero strides has any shape.
        empty = np.broadcast_to(np.int8(0), shape)
        out[entry.tensor] = rules.TRANSFORMS[entry.transform].dump(empty).shape
    return out


def made_by(recipe: str, salt: str = "", unsaid: str = "", **values: Any) -> list[np.ndarray]:
    """The inputs that an info.json describes as calls of `normal` and `blocky`, comma-separated.

        made_by("normal('input:text_embeds{n}',(n,1,256))", n=3)

    Names stand for `salt` and for `values`, also in braces inside a string.

    Args:
        unsaid: the salt of a call that mentions none.

    Raises: ValueError for anything else than such calls.
    """
    names = {"salt": salt, **values}

    def value(node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=str(text)):
                return text.format_map(names)
            case ast.Constant(value=number):
                return number
            case ast.Name(id=name) if name in names:
                return names[name]
            case ast.Tuple(elts=items):
                return tuple(value(item) for item in items)
            case ast.Call(func=ast.Name(id="normal"), args=arguments, keywords=[]):
                return normal(*[*map(value, arguments), unsaid][:3])
            case ast.Call(func=ast.Name(id="blocky"), args=arguments, keywords=[]):
                return blocky(*[*map(value, arguments), unsaid][:4])
        raise ValueError(f"cannot read {ast.unparse(node)!r} in the recipe {recipe!r}")

    try:
        made = value(ast.parse(recipe.strip(), mode="eval").body)
    except (SyntaxError, TypeError, KeyError) as error:
        raise ValueError(f"cannot read the recipe {recipe!r}: {error}") from error
    return list(made) if isinstance(made, tuple) else [made]
