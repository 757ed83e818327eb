"""Photographs as a model gets them, and its boxes as they are in the photograph.

prepared = prepare(pixels, InputDescription(width=416, height=416, resize="letterbox"))
prepared.array.shape                    # (3, 416, 416)
prepared.to_image(boxes)                # of the input, in pixels -> of the photograph
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Shaped
from PIL import Image

from glamm_jax.errors import GLaMMError
from glamm_jax.grand.adapters.onnx_models.description import InputDescription
from glamm_jax.grand.roles import Pixels

MAX_PIXELS = 1 << 26  # of a resized photograph
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "box": Image.Resampling.BOX,
    "nearest": Image.Resampling.NEAREST,
}


class InputImageError(GLaMMError):
    """An image cannot be an input of a model. Says why."""


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A photograph as a model gets it.

    Attributes:
        array: [3, height, width] or [height, width, 3].
        size: width and height of the photograph.
        input_size: width and height of the input.
        resized: width and height that the photograph has in the input.
        offset: of its left upper corner in the input; negative if the input is a part of it.
    """

    array: Shaped[np.ndarray, "a b c"]
    size: tuple[int, int]
    input_size: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]

    def to_image(self, boxes: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, "n 4"]:
        """Return boxes x0 y0 x1 y1 of the input as those of the photograph, within it."""
        scale = np.asarray(self.size, np.float64) / self.resized
        corners = (boxes.reshape(-1, 2, 2) - np.asarray(self.offset)) * scale
        return np.clip(corners, 0.0, np.asarray(self.size, np.float64)).reshape(-1, 4)

    def map_to_image(self, values: Float32[np.ndarray, "h w"]) -> Float32[np.ndarray, "H W"]:
        """Return a map of the input, of any resolution, at the size of the photograph.

        Where the photograph is outside of the input, the values are those of the nearest edge.
        """
        height, width = values.shape
        # The photograph in the pixels of the map.
        scale = width / self.input_size[0], height / self.input_size[1]
        left, top = (self.offset[i] * scale[i] for i in (0, 1))
        right, bottom = ((self.offset[i] + self.resized[i]) * scale[i] for i in (0, 1))
        pad_x = max(0, int(np.ceil(-left)), int(np.ceil(right - width)))
        pad_y = max(0, int(np.ceil(-top)), int(np.ceil(bottom - height)))
        if pad_x or pad_y:
            values = np.pad(values, ((pad_y, pad_y), (pad_x, pad_x)), mode="edge")
        box = (left + pad_x, top + pad_y, right + pad_x, bottom + pad_y)
        image = Image.fromarray(np.ascontiguousarray(values, np.float32))
        return np.asarray(image.resize(self.size, Image.Resampling.BILINEAR, box=box))


def prepare(pixels: Pixels, options: InputDescription) -> PreparedImage:
    """Resize and normalise a photograph.

    Args:
        pixels: RGB.
        options: of the model's input.

    Raises:
        InputImageError: it has no pixels, or is too narrow to be resized.
    """
    height, width = pixels.shape[:2]
    if not pixels.size:
        raise InputImageError(f"{width} x {height} pixels are no image")
    resized, input_size, offset = _geometry((width, height), options)
    if resized[0] * resized[1] > MAX_PIXELS:
        raise InputImageError(
            f"{width} x {height} pixels would be resized to {resized[0]} x {resized[1]}"
        )
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if resized != (width, height):
        image = image.resize(resized, _FILTERS[options.resampling])
    if input_size != resized:
        canvas = Image.new("RGB", input_size, (options.fill,) * 3)
        canvas.paste(image, offset)
        image = canvas
    array = np.asarray(image)
    if options.colours == "BGR":
        array = array[:, :, ::-1]
    if options.dtype != "uint8":
        mean, std = (np.asarray(x, np.float32) for x in (options.mean, options.std))
        array = ((array.astype(np.float32) - mean) / std).astype(options.dtype)
    if options.layout == "NCHW":
        array = array.transpose(2, 0, 1)
    return PreparedImage(np.ascontiguousarray(array), (width, height), input_size, resized, offset)


def _geometry(
    size: tuple[int, int], options: InputDescription
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Return the size of the photograph in the input, the input's size, and the offset."""
    fixed = (options.width, options.height)
    if options.resize == "stretch":
        return fixed, fixed, (0, 0)
    if options.resize.startswith("letterbox"):
        scale = min(fixed[0] / size[0], fixed[1] / size[1])
        resized = _scaled(size, scale, fixed)
        rest = fixed[0] - resized[0], fixed[1] - resized[1]
        is_centred = options.resize == "letterbox-centred"
        return resized, fixed, (rest[0] // 2, rest[1] // 2) if is_centred else (0, 0)
    scale = options.shortest / min(size)
    if options.resize == "shortest-edge":
        if options.longest:
            scale = min(scale, options.longest / max(size))
        resized = _scaled(size, scale)
        return resized, resized, (0, 0)
    resized = _scaled(size, scale)
    offset = -((resized[0] - fixed[0]) // 2), -((resized[1] - fixed[1]) // 2)
    return resized, fixed, offset


def _scaled(
    size: tuple[int, int], scale: float, limit: tuple[int, int] | None = None
) -> tuple[int, int]:
    width, height = (max(1, round(side * scale)) for side in size)
    return (width, height) if limit is None else (min(width, limit[0]), min(height, limit[1]))
