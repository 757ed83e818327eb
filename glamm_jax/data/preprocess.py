"""Decoding of images and preprocessing for both encoders, in uint8; the device normalises.

    image = open_image("dog.jpg")                      # uint8[h, w, 3], upright, original size
    clip_image(image, 336)                             # uint8[336, 336, 3], centre crop
    grounding_image(image, 1024)                       # uint8[1024, 1024, 3], padded bottom right
    clip_and_grounding_images(image, 336, 1024)        # both, in half the time

Training, evaluation, parity checks and the demo all use these functions.
"""

from __future__ import annotations

import io
import re
from contextlib import nullcontext
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
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
JPEG_COLOURS = {"YCbCr": "RGB", "RGB": "RGB", "Gray": "GRAY"}
PNG_START = b"\x89PNG\r\n\x1a\n"
TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
ORIENTATION_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
MAX_ORIENTATION_TEXT = 1 << 16  # bytes
# Formats that are decoded inside this process by code that bounds its memory. Pillow has forty
# more; for EPS it starts the program gs.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")
MAX_IMAGE_BYTES = 1 << 29  # of a file
MAX_SIDE = 1 << 17  # pixels; resizing needs some bytes for each pixel of a side
# A progressive JPEG has about ten scans. Each costs as much time as a complete image, so that a
# small file of empty scans would take minutes. libtiff has the same limit.
MAX_SCANS = 100
SCANNED_PIXELS = 1 << 31  # scans x pixels; about ten seconds
USUAL_SCANS = 20  # always allowed
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)

ImageSource = str | Path | bytes | io.BufferedIOBase | Image.Image | np.ndarray
RGB = UInt8[np.ndarray, "h w 3"]


class ImageError(GLaMMError):
    """An image cannot be used. Names the file and says why."""


def open_image(source: ImageSource, background: tuple[int, int, int] | None = WHITE) -> RGB:
    """Read an image as upright 8-bit RGB in its own size.

    The formats are AVIF, BMP, GIF, JPEG, MPO, PNG, PPM, TIFF and WebP. Grayscale is repeated, CMYK
    and palettes are converted, of 16 bits the upper 8 are kept. EXIF orientation is applied: boxes
    and masks refer to the upright image. Of an animation the first frame is used.

    Args:
        source: a path, the bytes of a file, an open file, a Pillow image, or uint8 [h, w, 3].
        background: colour that transparent pixels are blended onto; None keeps the colours of
            transparent pixels, as the original does.

    Raises:
        ImageError: the image is missing, unreadable, truncated, of another format, larger than
            PIL.Image.MAX_IMAGE_PIXELS, or has values without a fixed range (floating point, 32
            bits); names the file.
    """
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
            raise ImageError(
                f"array: {source.dtype} {source.shape} is not an image; an image is uint8 [h, w, 3]"
            )
        return source
    name = _name(source)
    try:
        if isinstance(source, Image.Image):
            check_size(*source.size, name)
            return _to_rgb(_upright(source), background, name)
        data = _read_bytes(source)
        pixels = _decode_plain_jpeg(data)
        if pixels is not None:
            return pixels
        return _to_rgb(_upright(_load(data, name)), background, name)
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # PIL's message contains the number of pixels.
        pixels = re.search(r"\d+ pixels", str(error))
        raise ImageError(f"{name}: {_too_large(pixels.group() if pixels else '')}") from error
    except MemoryError as error:
        raise ImageError(f"{name}: not enough memory to decode it") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error and others
        raise ImageError(f"{name}: not a readable image: {_reason(error)}") from error


def with_end_marker(data: bytes) -> bytes:
    """Return the bytes of a JPEG that lacks only its end marker with it, all others as they are."""
    if not data.startswith(JPEG_START) or data.endswith(JPEG_END):
        return data
    completed = data.removesuffix(JPEG_END[:1]) + JPEG_END
    # Strict: missing pixels are an error. Bytes behind the end marker are allowed.
    return completed if not _is_complete_jpeg(data) and _is_complete_jpeg(completed) else data


def _is_complete_jpeg(data: bytes) -> bool:
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        check_size(int(width), int(height), "JPEG")
        _check_scans(data, int(width) * int(height), "JPEG")
        simplejpeg.decode_jpeg(data, JPEG_COLOURS.get(colours, "CMYK"))
    except Exception:  # damaged or too large
        return False
    return True


def without_text_chunks(data: bytes) -> bytes:
    """Return a PNG without its texts and colour profile, whose size Pillow limits.

    Short texts that may have the orientation of the image stay.
    """
    parts, offset = [data[:8]], 8
    while offset + 12 <= len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        kind, content = data[offset + 4 : offset + 8], data[offset + 8 : offset + 64]
        may_rotate = end - offset < MAX_ORIENTATION_TEXT and content.startswith(ORIENTATION_TEXTS)
        if kind not in TEXT_CHUNKS or may_rotate:
            parts.append(data[offset:end])
        offset = end
    return b"".join(parts)


def open_raster(data: bytes, name: str = "image") -> Image.Image:
    """Open an image of one of `FORMATS` from memory; its pixels are not decoded yet.

    Args:
        data: of the file.
        name: of the file, for messages.

    Raises:
        ImageError: it is too large, or would take too long.
        Exception: Pillow cannot open it; there are many kinds.
    """
    Image.init()
    image = Image.open(io.BytesIO(data), formats=[x for x in FORMATS if x in Image.OPEN])
    check_size(*image.size, name)
    if image.format in ("JPEG", "MPO"):
        _check_scans(data, image.width * image.height, name)
    return image


def clip_size(height: int, width: int, shortest: int) -> tuple[int, int]:
    """Return height and width after the shorter side is resized to `shortest`.

    The longer side is rounded down.

    Args:
        height: of the original image, in pixels.
        width: of the original image, in pixels.
        shortest: the shorter side after resizing, in pixels.
    """
    if height <= width:
        return shortest, int(shortest * width / height)
    return int(shortest * height / width), shortest


def clip_image(image: RGB, size: int) -> UInt8[np.ndarray, "s s 3"]:
    """Resize the shorter side (bicubic, antialiased), then crop the centre square.

    Source: CLIPImageProcessor of transformers 4.28.
    """
    return resize(image, [_clip_target(image, size)])[0]


def grounding_size(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return height and width after the longer side is resized to `longest`.

    The shorter side is rounded, and at least 1.

    Args:
        height: of the original image, in pixels.
        width: of the original image, in pixels.
        longest: the longer side after resizing, in pixels.

    Differs: the original rounds the shorter side of a 1 x 20,000 image to zero and fails.
    """
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def resize_longest(image: RGB, longest: int) -> UInt8[np.ndarray, "down across 3"]:
    """Resize the longer side to `longest` (bilinear, antialiased).

    Source: model/SAM/utils/transforms.py:28.
    """
    return resize(image, [_longest_target(image, longest)])[0]


class GroundingImage(NamedTuple):
    """An image for the grounding encoder.

    Attributes:
        pixels: resized and padded.
        resized_size: height and width before padding; masks are cropped to it.
        original_size: height and width of the original image; masks are resized to it.
    """

    pixels: UInt8[np.ndarray, "s s 3"]
    resized_size: tuple[int, int]
    original_size: tuple[int, int]


def grounding_image(image: RGB, size: int) -> GroundingImage:
    """Resize the longer side to `size` and pad with 0 at the bottom right.

    The padding must be 0 after normalisation too, so normalisation needs `resized_size`.
    """
    target = _longest_target(image, size)._replace(canvas=(size, size))
    (pixels,) = resize(image, [target])
    return GroundingImage(pixels, (target.height, target.width), (image.shape[0], image.shape[1]))


def clip_and_grounding_images(
    image: RGB, clip: int, grounding: int
) -> tuple[UInt8[np.ndarray, "s s 3"], GroundingImage]:
    """Return `clip_image` and `grounding_image`, computed in one pass over the image.

    Args:
        image: the upright image.
        clip: side of the image for CLIP, in pixels.
        grounding: side of the image for the grounding encoder, in pixels.
    """
    target = _longest_target(image, grounding)._replace(canvas=(grounding, grounding))
    crop, pixels = resize(image, [_clip_target(image, clip), target])
    size = (image.shape[0], image.shape[1])
    return crop, GroundingImage(pixels, (target.height, target.width), size)


def _clip_target(image: RGB, size: int) -> ResizeTarget:
    height, width = clip_size(image.shape[0], image.shape[1], size)
    window = ((height - size) // 2, (width - size) // 2, size, size)
    return ResizeTarget(height, width, "bicubic", window)


def _longest_target(image: RGB, longest: int) -> ResizeTarget:
    return ResizeTarget(*grounding_size(image.shape[0], image.shape[1], longest), "bilinear")


def _decode_plain_jpeg(data: bytes) -> RGB | None:
    """The pixels of an undamaged, upright colour JPEG: Pillow's, in four fifths of its time.

    None for anything else: Pillow decodes it, or says what is wrong with it.
    """
    if not data.startswith(JPEG_START):
        return None
    try:
        if _may_have_exif(data) and _is_rotated(Image.open(io.BytesIO(data), formats=["JPEG"])):
            return None
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in ("YCbCr", "RGB"):
            return None
        check_size(int(width), int(height), "JPEG")
        _check_scans(data, int(width) * int(height), "JPEG")
        return simplejpeg.decode_jpeg(data, "RGB", fastdct=False, fastupsample=False)
    except Exception:  # damaged metadata, damaged or too large images
        return None


def _load(data: bytes, name: str) -> Image.Image:
    """Decode with Pillow; what it refuses, although all pixels are there, is repaired."""
    try:
        return _load_unchanged(with_end_marker(data), name)
    except ValueError as error:
        if isinstance(error, ImageError) or not data.startswith(PNG_START):
            raise
        return _load_unchanged(without_text_chunks(data), name)


def _load_unchanged(data: bytes, name: str) -> Image.Image:
    image = open_raster(data, name)  # from memory, so that no file stays open
    image.load()
    return image


def _may_have_exif(data: bytes) -> bool:
    """Whether a JPEG has a segment APP1, which may contain EXIF, before its pixels."""
    offset = 2
    while data[offset] == 0xFF and data[offset + 1] not in (0xE1, 0xFF):
        if data[offset + 1] == 0xDA:
            return False
        offset += 2 + int.from_bytes(data[offset + 2 : offset + 4], "big")
    return True


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; if the metadata is damaged, the image is used as it is stored."""
    image.load()
    try:
        return ImageOps.exif_transpose(image) if _is_rotated(image) else image
    except Exception:  # Pillow's EXIF reader raises several kinds
        return image


def _is_rotated(image: Image.Image) -> bool:
    """Whether the EXIF orientation is not upright."""
    return image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _to_rgb(
    image: Image.Image, background: tuple[int, int, int] | None, name: str
) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point pixels have no fixed range; save it with 8 bits")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 0xFFFF:
            raise ImageError(
                f"{name}: 32-bit pixels from {low} to {high}; save it with 8 or 16 bits"
            )
        # Keep the upper 8 bits, as the colour decoders do.
        gray = (values.astype(np.uint32) >> 8).astype(np.uint8)
        return np.repeat(gray[:, :, None], 3, axis=2)
    transparent = image.has_transparency_data
    if transparent and background is not None:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(canvas, image)
    elif transparent:
        image = image.convert("RGBA")
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "h w 3"]:
    """Pillow's own memory, which has four bytes a pixel, the last one unused: nothing is copied."""
    try:
        values = pyarrow.array(image).values
    except ValueError:  # above 16 MB Pillow's memory is in several blocks
        return np.asarray(image)
    return values.to_numpy().reshape(image.height, image.width, 4)[:, :, :3]


def to_pillow(pixels: RGB) -> Image.Image:
    """Return pixels of `open_image` as an image of Pillow, of mode RGB or RGBX."""
    height, width = pixels.shape[:2]
    memory = pixels.base
    form = (4 * width * height, (4 * width, 4, 1))  # see `_pixels`
    if isinstance(memory, np.ndarray) and (memory.size, pixels.strides) == form:
        return Image.frombuffer("RGBX", (width, height), memory, "raw", "RGBX", 0, 1)
    return Image.fromarray(pixels)


def check_size(width: int, height: int, name: str) -> None:
    """Refuse an image before it is decoded.

    Args:
        width: in pixels, from the header.
        height: in pixels, from the header.
        name: of the image, for the message.

    Raises:
        ImageError: it is empty or too large.
    """
    limit = Image.MAX_IMAGE_PIXELS
    if max(width, height) > MAX_SIDE:
        raise ImageError(f"{name}: {width} x {height} pixels; a side has at most {MAX_SIDE}")
    if width * height == 0:
        raise ImageError(f"{name}: the image is empty ({width} x {height} pixels)")
    if limit is not None and width * height > limit:
        raise ImageError(f"{name}: {_too_large(f'{width * height} pixels')}")


def _check_scans(data: bytes, pixels: int, name: str) -> None:
    """Refuse a JPEG of so many scans that decoding takes minutes."""
    limit = max(USUAL_SCANS, min(MAX_SCANS, SCANNED_PIXELS // pixels))
    if data.count(b"\xff\xda") <= limit:  # at least the number of scans
        return
    scans, position = 0, 2
    while match := _MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == 0xD9:
            return
        scans += marker == 0xDA
        if scans > limit:
            raise ImageError(f"{name}: a JPEG of more than {limit} scans; save it again")
        if marker not in (0x01, 0xD8):  # these have no length
            position += int.from_bytes(data[position : position + 2], "big")


def _too_large(size: str) -> str:
    limit = Image.MAX_IMAGE_PIXELS or 0
    return (
        f"too large ({size}; the limit is {limit / 1e6:.0f} million). Make it smaller (the model "
        "uses about a thousand pixels a side), or raise PIL.Image.MAX_IMAGE_PIXELS"
    )


def _read_bytes(source: str | Path | bytes | io.BufferedIOBase) -> bytes:
    if isinstance(source, bytes):
        return source
    with open(source, "rb") if isinstance(source, str | Path) else nullcontext(source) as stream:
        data = stream.read(MAX_IMAGE_BYTES + 1)
    if len(data) > MAX_IMAGE_BYTES:
        raise ImageError(f"{_name(source)}: more than {MAX_IMAGE_BYTES} bytes")
    return data


def _name(source: str | Path | bytes | io.BufferedIOBase | Image.Image) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, bytes):
        return f"{len(source)} bytes"
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or "image")


def _reason(error: Exception) -> str:
    """PIL's message; the two usual ones are the same for every format."""
    if isinstance(error, UnidentifiedImageError):
        return "the format is unknown or the file is damaged"
    if "truncated" in str(error):
        return "the file ends too early"
    return str(error) or type(error).__name__
