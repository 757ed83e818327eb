"""Cases of image files: each is read and preprocessed for both encoders."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from glamm_jax.data.preprocess import clip_image, grounding_image, open_image
from tests.bad_input.case import Case

_IMAGES = "Images"
_CLEAR_RED = (200, 0, 0, 0)


def _describe(image: np.ndarray) -> str:
    """Preprocess an image for both encoders, and describe it."""
    height, width, _ = image.shape
    clip = clip_image(image, 336)
    resized = grounding_image(image, 1024).resized_size
    assert clip.shape == (336, 336, 3)
    return (
        f"{width} x {height}, top left pixel {tuple(image[0, 0].tolist())}; "
        f"{resized[1]} x {resized[0]} for the grounding encoder"
    )


def _image(
    mode: str,
    size: tuple[int, int],
    color: object,
    kind: str = "png",
    background: tuple[int, int, int] | None = (255, 255, 255),
    **options: object,
) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        path = folder / f"image.{kind}"
        Image.new(mode, size, color).save(path, **options)
        return _describe(open_image(path, background))

    return run


def _bytes(content: bytes, name: str = "image.jpg") -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return _describe(open_image(folder / name))

    return run


def _truncated(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()[: len(buffer.getvalue()) // 2]


def _rgb_16_bits() -> bytes:
    """A PNG of 2 x 2 pixels with 16 bits per channel, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = (b"\0" + struct.pack(">6H", *[0x1234, 0x8001, 0xFFFF] * 2)) * 2
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _rotated(folder: Path) -> str:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[1, 0] = 255
    Image.fromarray(pixels).save(folder / "image.png", exif=exif)
    return _describe(open_image(folder / "image.png"))


def _damaged_exif(folder: Path) -> str:
    path = folder / "image.png"
    Image.new("RGB", (4, 2), "red").save(path, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")
    return _describe(open_image(path))


def _animated(folder: Path) -> str:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(folder / "image.gif", save_all=True, append_images=frames[1:])
    return _describe(open_image(folder / "image.gif"))


def _array(array: np.ndarray) -> Callable[[Path], str]:
    return lambda _: _describe(open_image(array))


CASES: tuple[Case, ...] = (
    Case(
        _IMAGES,
        "a missing file",
        lambda folder: _describe(open_image(folder / "image.jpg")),
        "ImageError: image.jpg: no such file",
    ),
    Case(
        _IMAGES,
        "an empty file",
        _bytes(b""),
        "ImageError: image.jpg: not a readable image: the format is unknown or the file is damaged",
    ),
    Case(
        _IMAGES,
        "a text file",
        _bytes(b"this is text", "image.png"),
        "ImageError: image.png: not a readable image: the format is unknown or the file is damaged",
    ),
    Case(
        _IMAGES,
        "a truncated JPEG",
        _bytes(_truncated("jpeg")),
        "ImageError: image.jpg: not a readable image: the file ends too early",
    ),
    Case(
        _IMAGES,
        "a truncated PNG",
        _bytes(_truncated("png"), "image.png"),
        "ImageError: image.png: not a readable image: the file ends too early",
    ),
    Case(
        _IMAGES,
        "1 x 1 pixel",
        _image("RGB", (1, 1), (10, 20, 30)),
        "1 x 1, top left pixel (10, 20, 30); 1024 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "20,000 x 20 pixels",
        _image("RGB", (20_000, 20), (10, 20, 30)),
        "20000 x 20, top left pixel (10, 20, 30); 1024 x 1 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "1 x 20,000 pixels",
        _image("RGB", (1, 20_000), (10, 20, 30)),
        "1 x 20000, top left pixel (10, 20, 30); 1 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "20,000 x 20,000 pixels",
        _image("1", (20_000, 20_000), 0),
        "ImageError: image.png: too large (400000000 pixels; the limit is 89 "
        "million). Make it smaller (the model uses about a thousand pixels a side), "
        "or raise PIL.Image.MAX_IMAGE_PIXELS",
    ),
    Case(
        _IMAGES,
        "grayscale",
        _image("L", (4, 6), 77),
        "4 x 6, top left pixel (77, 77, 77); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "black and white",
        _image("1", (4, 6), 1),
        "4 x 6, top left pixel (255, 255, 255); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "a palette image",
        _image("P", (4, 6), 0),
        "4 x 6, top left pixel (0, 0, 0); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "transparent red: blended onto white",
        _image("RGBA", (4, 6), _CLEAR_RED),
        "4 x 6, top left pixel (255, 255, 255); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "transparent red with background=None: its colour is kept, as in the original",
        _image("RGBA", (4, 6), _CLEAR_RED, background=None),
        "4 x 6, top left pixel (200, 0, 0); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "grayscale with alpha",
        _image("LA", (4, 6), (77, 128)),
        "4 x 6, top left pixel (166, 166, 166); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "CMYK",
        _image("CMYK", (4, 6), (0, 255, 255, 0), "tiff"),
        "4 x 6, top left pixel (255, 0, 0); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "16-bit grayscale: the upper eight bits",
        _image("I;16", (4, 6), 0x1234),
        "4 x 6, top left pixel (18, 18, 18); 683 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "16-bit colour: the upper eight bits",
        _bytes(_rgb_16_bits(), "image.png"),
        "2 x 2, top left pixel (18, 128, 255); 1024 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "32-bit integers",
        _image("I", (4, 6), 70_000, "tiff"),
        "ImageError: image.tiff: 32-bit pixels from 70000 to 70000; save it with 8 or 16 bits",
    ),
    Case(
        _IMAGES,
        "floating point",
        _image("F", (4, 6), 0.5, "tiff"),
        "ImageError: image.tiff: floating-point pixels have no fixed range; save it with 8 bits",
    ),
    Case(
        _IMAGES,
        "4 x 2 with an EXIF rotation by 90 degrees",
        _rotated,
        "2 x 4, top left pixel (255, 255, 255); 512 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "damaged EXIF: the image is used as it is stored",
        _damaged_exif,
        "4 x 2, top left pixel (255, 0, 0); 1024 x 512 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "an animation: the first frame is used",
        _animated,
        "4 x 4, top left pixel (255, 0, 0); 1024 x 1024 for the grounding encoder",
    ),
    Case(
        _IMAGES,
        "an array of floats",
        _array(np.zeros((4, 6, 3))),
        "ImageError: array: float64 (4, 6, 3) is not an image; an image is uint8 [h, w, 3]",
    ),
    Case(
        _IMAGES,
        "an array of one channel",
        _array(np.zeros((4, 6), np.uint8)),
        "ImageError: array: uint8 (4, 6) is not an image; an image is uint8 [h, w, 3]",
    ),
    Case(
        _IMAGES,
        "an array without pixels",
        _array(np.zeros((0, 6, 3), np.uint8)),
        "ImageError: array: uint8 (0, 6, 3) is not an image; an image is uint8 [h, w, 3]",
    ),
)
