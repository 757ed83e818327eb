"""Decoding of plain PNG files in half of Pillow's time: undamaged, 8-bit RGB, without extras.

    pixels = decode_plain_png(data)        # uint8[h, w, 3]; None for all other files

What is not plain is Pillow's: other colours and depths, transparency, interlaced and animated
files, texts, which may have an orientation, and everything that is damaged.

Source: the PNG specification, sections 5, 9 and 10.
"""

from __future__ import annotations

import struct
import zlib
from typing import no_type_check

import numpy as np
from jaxtyping import UInt8
from numba import njit
from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS, MAX_SIDE = 1 << 22, 1 << 16  # a larger file would need twice the memory of Pillow
_PLAIN = (8, 2, 0, 0, 0)  # bits, RGB, deflate, filters by row, not interlaced
# Chunks that change no pixel: colour spaces, which Pillow ignores too, resolution, time.
_WITHOUT_EFFECT = frozenset((b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"tIME", b"bKGD"))
_LEFT, _ABOVE, _MEAN, _PAETH = range(1, 5)  # filters; 0: none


def decode_plain_png(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    """Return the pixels of a plain PNG; None for anything else.

    Args:
        data: content of the file.

    Returns:
        A view of memory with four bytes for each pixel, like Pillow's; the last one is 255.
    """
    if data[12:16] != b"IHDR" or not data.startswith(PNG_START) or len(data) < 33:
        return None
    width, height, *form = struct.unpack_from(">IIBBBBB", data, 16)
    limit = min(MAX_PIXELS, Image.MAX_IMAGE_PIXELS or MAX_PIXELS)
    if tuple(form) != _PLAIN or not 0 < width * height <= limit or max(width, height) > MAX_SIDE:
        return None
    stream = _image_data(data)
    if stream is None:
        return None
    size = height * (1 + 3 * width)
    decoder = zlib.decompressobj()
    try:
        rows = decoder.decompress(stream, size + 1)
    except zlib.error:
        return None
    if len(rows) != size or not decoder.eof:
        return None
    pixels = np.empty(4 * width * height, np.uint8)
    if not _unfilter(np.frombuffer(rows, np.uint8), pixels.reshape(height, 4 * width)):
        return None
    return pixels.reshape(height, width, 4)[:, :, :3]


def _image_data(data: bytes) -> bytes | None:
    """Return the compressed pixels; None if a chunk is damaged or may have an effect."""
    view, parts, position, is_ended = memoryview(data), [], len(PNG_START), False
    while True:
        if position + 12 > len(data):
            return None
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            return None
        checksum = int.from_bytes(view[end - 4 : end], "big")
        if zlib.crc32(view[position + 4 : end - 4]) != checksum:
            return None
        if kind == b"IEND":
            return b"".join(parts)
        if kind == b"IDAT":
            if is_ended:
                return None
            parts.append(view[position + 8 : end - 4])
        elif position == len(PNG_START) or kind in _WITHOUT_EFFECT:  # the first one is the header
            is_ended = bool(parts)
        else:
            return None
        position = end


@njit(cache=True, nogil=True)
@no_type_check
def _unfilter(rows, pixels):
    """Add to each byte what its filter predicts; returns False for an unknown filter."""
    height, width = pixels.shape
    above, at = np.zeros(width, np.uint8), 0
    for y in range(height):
        row, kind = pixels[y], rows[at]
        if kind > _PAETH:
            return False
        at += 1
        red = green = blue = corner_red = corner_green = corner_blue = 0
        for x in range(0, width, 4):
            up_red, up_green, up_blue = int(above[x]), int(above[x + 1]), int(above[x + 2])
            red = (rows[at] + _predict(kind, red, up_red, corner_red)) & 255
            green = (rows[at + 1] + _predict(kind, green, up_green, corner_green)) & 255
            blue = (rows[at + 2] + _predict(kind, blue, up_blue, corner_blue)) & 255
            corner_red, corner_green, corner_blue = up_red, up_green, up_blue
            row[x], row[x + 1], row[x + 2], row[x + 3] = red, green, blue, 255
            at += 3
        above = row
    return True


@njit(cache=True, nogil=True)
@no_type_check
def _predict(kind, left, up, corner):
    """Return the prediction of a byte from those of its neighbours."""
    if kind == _PAETH:
        # Distances of left + up - corner from each of the three.
        to_left, to_up, to_corner = (
            abs(up - corner),
            abs(left - corner),
            abs(left + up - 2 * corner),
        )
        nearest = up if to_up <= to_corner else corner
        return left if to_left <= min(to_up, to_corner) else nearest
    if kind == _MEAN:
        return (left + up) >> 1
    if kind == _ABOVE:
        return up
    return left if kind == _LEFT else 0
