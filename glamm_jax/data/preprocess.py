"""The one way from a picture to what the encoders take: uint8; the device normalises.

image = open_image("dog.jpg")                  uint8[h, w, 3], upright, the original size
clip_image(image, 336)                         uint8[336, 336, 3], centre crop
grounding_image(image, 1024)                   uint8[1024, 1024, 3], padded at the bottom right
both_images(image, 336, 1024)                  the two in half the time
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import simplejpeg
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from glamm_jax.data.resample import ResizeTarget, resize
from glamm_jax.errors import GLaMMError

WHITE = (255, 255, 255)

ImageSource = str | Path | bytes | io.BufferedIOBase | Image.Image | np.ndarray
RGB = UInt8[np.ndarray, "h w 3"]


class ImageError(GLaMMError):
    """A picture that cannot be used. Names the file and says why."""


def open_image(source: ImageSource, background: tuple[int, int, int] | None = WHITE) -> RGB:
    """Read a picture of any common kind as upright 8-bit RGB at its own size.

    Grayscale is repeated, CMYK and palettes are converted, of 16 bits the upper 8 are kept, EXIF
    orientation is applied (boxes refer to the upright picture), of an animation the first frame is
    taken. Transparent pixels are blended onto `background`; None keeps the colours hidden under
    them, as the original does.

    Raises: ImageError naming the file when it is absent, unreadable, truncated, larger than
    PIL.Image.MAX_IMAGE_PIXELS, or holds numbers that are no brightness (floating point, 32 bits).
    """
    if isinstance(source, np.ndarray):
        return _checked_array(source)
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            _check_size(*source.size, name)
            return _to_rgb(_upright(source), background, name)
        data = _data(source)
        pixels = _plain_jpeg(data)
        if pixels is not None:
            return pixels
        picture = Image.open(io.BytesIO(data))  # no file stays open behind it
        _check_size(*picture.size, name)
        return _to_rgb(_upright(picture), background, name)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # PIL's sentence starts with the number of pixels.
        pixels = re.search(r"\d+ pixels", str(error))
        raise ImageError(f"{name}: {_too_large(pixels.group() if pixels else '')}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory to decode it") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        raise ImageError(f"{name}: not a readable picture: {_reason(error)}") from error


def clip_size(height: int, width: int, shortest: int) -> tuple[int, int]:
    """Height and width after the shorter edge is brought to `shortest`; the longer is cut down."""
    if height <= width:
        return shortest, int(shortest * width / height)
    return int(shortest * height / width), shortest


def clip_image(image: RGB, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Resize the shorter edge (bicubic, antialiased), then cut the centre square out.

    Source: CLIPImageProcessor of transformers 4.28.
    """
    return resize(image, [_clip_target(image, size)])[0]


def grounding_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Height and width after the longer edge is brought to `longest`, rounded, never zero.

    Differs: the original rounds the shorter edge of a 1 x 20,000 picture to zero and fails.
    """
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_longest(image: RGB, longest: int) -> UInt8[np.ndarray, "down across 3"]:
    """Resize the longer edge to `longest` (bilinear, antialiased).

    Source: model/SAM/utils/transforms.py:28.
    """
    return resize(image, [_longest_target(image, longest)])[0]


class GroundingImage(NamedTuple):
    """A picture for the grounding encoder: padded pixels, and the sizes its masks pass through."""

    pixels: UInt8[np.ndarray, "s s 3"]
    resized_size: tuple[int, int]
    original_size: tuple[int, int]


def grounding_image(image: RGB, size: int) -> GroundingImage:
    """Resize the longer edge to `size` and pad with 0 at the bottom right.

    The padding is 0 after normalisation, too, so whoever normalises needs `resized_size`.
    """
    target = _longest_target(image, size)._replace(canvas=(size, size))
    (pixels,) = resize(image, [target])
    return GroundingImage(pixels, (target.height, target.width), (image.shape[0], image.shape[1]))


def clip_and_grounding_images(
    image: RGB, clip: int, grounding: int
) -> tuple[UInt8[np.ndarray, "s s 3"], GroundingImage]:
    """`clip_image` and `grounding_image` in one walk over the picture."""
    target = _longest_target(image, grounding)._replace(canvas=(grounding, grounding))
    cut, pixels = resize(image, [_clip_target(image, clip), target])
    size = (image.shape[0], image.shape[1])
    return cut, GroundingImage(pixels, (target.height, target.width), size)


def _clip_target(image: RGB, size: int) -> ResizeTarget:
    height, width = clip_size(image.shape[0], image.shape[1], size)
    window = ((height - size) // 2, (width - size) // 2, size, size)
    return ResizeTarget(height, width, "bicubic", window)


def _longest_target(image: RGB, longest: int) -> ResizeTarget:
    return ResizeTarget(*grounding_size(image.shape[0], image.shape[1], longest), "bilinear")


def _plain_jpeg(data: bytes) -> RGB | None:
    """What Pillow would decode of a sound, upright colour JPEG, in four fifths of its time.

    Everything else is None and Pillow's, which says what is wrong with it.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    try:
        if _has_metadata(data) and _lies(Image.open(io.BytesIO(data))):
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "RGB"):
            return None
        _check_size(int(width), int(height), "JPEG")
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except Exception:  # of damaged metadata, and of damaged or too large pictures
        return None


def _has_metadata(data: bytes) -> bool:
    """Whether a JPEG may say which side is up: a segment APP1 stands in front of its pixels."""
    at = 2
    while data[at] == 0xFF and data[at + 1] not in (0xE1, 0xFF):
        if data[at + 1] == 0xDA:
            return False
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return True


def _upright(picture: Image.Image) -> Image.Image:
    """Turned as EXIF says; damaged metadata does not cost a picture whose pixels are sound."""
    picture.load()
    try:
        return ImageOps.exif_transpose(picture) if _lies(picture) else picture
    except Exception:  # Pillow's EXIF reader raises several kinds
        return picture


def _lies(picture: Image.Image) -> bool:
    """Whether the metadata says that the picture is stored in another position than upright."""
    return picture.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _to_rgb(
    picture: Image.Image, background: tuple[int, int, int] | None, name: str
) -> UInt8[np.ndarray, "h w 3"]:
    if picture.mode == "F":
        raise ImageError(f"{name}: floating-point pixels have no fixed range; save it with 8 bits")
    if picture.mode == "I" or picture.mode.startswith("I;16"):
        return _from_16_bits(np.asarray(picture), name)
    transparent = picture.has_transparency_data
    if transparent and background is not None:
        picture = picture.convert("RGBA")
        canvas = Image.new("RGBA", picture.size, (*background, 255))
        picture = Image.alpha_composite(canvas, picture)
    elif transparent:
        picture = picture.convert("RGBA")
    return _pixels(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _pixels(picture: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Where Pillow keeps them, four bytes a pixel, the last of no meaning: nothing is copied."""
    try:
        levels = pyarrow.array(picture).flatten()
    except ValueError:  # above 16 MB they are in several pieces
        return np.asarray(picture)
    return levels.to_numpy().reshape(picture.height, picture.width, 4)[:, :, :3]


def _from_16_bits(levels: np.ndarray, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """Grayscale of 16 bits: the upper eight, as the colour decoders do."""
    low, high = int(levels.min()), int(levels.max())
    if low < 0 or high > 0xFFFF:
        raise ImageError(f"{name}: 32-bit pixels from {low} to {high}; save it with 8 or 16 bits")
    gray = (levels.astype(np.uint32) >> 8).astype(np.uint8)
    return np.repeat(gray[:, :, None], 3, axis=2)


def _checked_array(array: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ImageError(
            f"array: {array.dtype} {array.shape} is not a picture; a picture is uint8 [h, w, 3]"
        )
    return array


def _check_size(width: int, height: int, name: str) -> None:
    """Refuse before decoding: the header tells the size."""
    limit = Image.MAX_IMAGE_PIXELS
    if width * height == 0:
        raise ImageError(f"{name}: the picture is empty ({width} x {height} pixels)")
    if limit is not None and width * height > limit:
        raise ImageError(f"{name}: {_too_large(f'{width * height} pixels')}")


def _too_large(what: str) -> str:
    limit = Image.MAX_IMAGE_PIXELS or 0
    return (
        f"too large ({what}; the limit is {limit / 1e6:.0f} million). Make it smaller, the model "
        "looks at about a thousand pixels a side, or raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _data(source: str | Path | bytes | io.BufferedIOBase) -> bytes:
    """Everything that a file holds."""
    if isinstance(source, str | Path):
        return Path(source).read_bytes()
    return source if isinstance(source, bytes) else source.read()


def _name(source: str | Path | bytes | io.BufferedIOBase | Image.Image) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or "picture")


def _reason(error: Exception) -> str:
    """PIL's message, in words that do not change from format to format for the two usual cases."""
    if isinstance(error, UnidentifiedImageError):
        return "the format is unknown or the file is damaged"
    if "truncated" in str(error):
        return "the file ends too early"
    return str(error) or type(error).__name__
