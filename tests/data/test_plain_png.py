"""Plain PNG files: the pixels are Pillow's, and everything else is left to Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from glamm_jax.data import plain_png
from glamm_jax.data.plain_png import PNG_START, decode_plain_png
from glamm_jax.data.preprocess import ImageError, open_image


def _chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _png(
    width: int,
    rows: bytes,
    parts: int = 1,
    *,
    height: int | None = None,
    depth: int = 8,
    before: bytes = b"",
) -> bytes:
    """Return a file of filtered rows, its data in several chunks."""
    height = len(rows) // (1 + 3 * width) if height is None else height
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0))
    stream = zlib.compress(rows)
    step = -(-len(stream) // parts)
    data = [_chunk(b"IDAT", stream[i : i + step]) for i in range(0, len(stream), step)]
    return PNG_START + header + before + b"".join(data) + _chunk(b"IEND", b"")


def _rows(seed: int, width: int, filters: list[int]) -> bytes:
    rows = np.random.default_rng(seed).integers(0, 256, (len(filters), 1 + 3 * width), np.uint8)
    rows[:, 0] = filters
    return rows.tobytes()


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 1 << 30),
    st.integers(1, 9),
    st.lists(st.integers(0, 4), min_size=1, max_size=7),
    st.integers(1, 3),
)
def test_all_filters_give_the_pixels_of_pillow(
    seed: int, width: int, filters: list[int], parts: int
) -> None:
    data = _png(width, _rows(seed, width, filters), parts, before=_chunk(b"gAMA", b"\0\0\xb1\x8f"))
    pixels = decode_plain_png(data)
    assert pixels is not None
    assert (pixels == np.asarray(Image.open(io.BytesIO(data)))).all()
    assert pixels.strides == (4 * width, 4, 1)
    assert (pixels.base == 255)[3::4].all()
    assert (open_image(data) == pixels).all()


def _saved(mode: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (5, 4), 1).save(stream, "PNG", **options)
    return stream.getvalue()


PLAIN = _png(3, _rows(0, 3, [0, 4]))
TEXT = PngImagePlugin.PngInfo()
TEXT.add_text("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
NOT_PLAIN = {
    "no PNG": b"\xff\xd8\xff" + PLAIN,
    "empty": b"",
    "gray": _saved("L"),
    "palette": _saved("P"),
    "alpha": _saved("RGBA"),
    "transparent colour": _saved("RGB", transparency=(0, 0, 0)),
    "orientation": _saved("RGB", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"),
    "text": _saved("RGB", pnginfo=TEXT),
    "16 bits": _png(2, bytes(26), depth=16),
    "no size": _png(3, b"", height=0),
    "unknown filter": _png(3, _rows(0, 3, [5])),
    "too few rows": _png(3, _rows(0, 3, [0]), height=2),
    "too many rows": _png(3, _rows(0, 3, [0, 0]), height=1),
    "animated": _png(3, _rows(0, 3, [0]), before=_chunk(b"acTL", bytes(8))),
    "data in two places": PLAIN[:-12] + _chunk(b"tIME", bytes(7)) + PLAIN[33:],
    "damaged": PLAIN[:50] + bytes([PLAIN[50] ^ 1]) + PLAIN[51:],
}


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_everything_else_is_left_to_pillow(name: str) -> None:
    assert decode_plain_png(PLAIN) is not None
    assert decode_plain_png(NOT_PLAIN[name]) is None


@pytest.mark.parametrize("length", range(0, len(PLAIN), 7))
def test_a_part_of_a_file_is_no_image(length: int) -> None:
    assert decode_plain_png(PLAIN[:length]) is None


def test_limits_of_size_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(ImageError, match="too large"):
        open_image(PLAIN)
    monkeypatch.undo()
    monkeypatch.setattr(plain_png, "MAX_PIXELS", 5)
    assert decode_plain_png(PLAIN) is None
    assert open_image(PLAIN).shape == (2, 3, 3)
