"""The one painter of masks and phrases: a picture, its masks in colour, the text below.

    paint(image, "A dog runs.", [Layer("A dog", mask, start=0, end=5)], question="What runs?")

Every phrase has the colour of its mask. Numpy and PIL only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# Twelve hues that stay apart for colour-blind readers at the front of the list; then they repeat.
PALETTE: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
    (240, 228, 66),
    (148, 103, 189),
    (188, 189, 34),
    (23, 190, 207),
    (227, 119, 194),
    (127, 127, 127),
)
OPACITY = 0.55
INK, PAPER = (30, 30, 30), (255, 255, 255)
MIN_WIDTH = 480


@dataclass(frozen=True)
class Layer:
    """One mask and the phrase it belongs to; start and end are its place in the text, if any."""

    phrase: str
    mask: Bool[np.ndarray, "h w"]
    start: int = 0
    end: int = 0


def colour_of(index: int) -> Colour:
    """The colour of the index-th mask. Colours repeat; they never run out."""
    return PALETTE[index % len(PALETTE)]


def overlay(
    image: UInt8[np.ndarray, "h w 3"], masks: Sequence[Bool[np.ndarray, "h w"]]
) -> UInt8[np.ndarray, "h w 3"]:
    """Masks laid over a picture, later ones on top, each with a sharp outline.

    Raises: ValueError naming the mask whose size is not the picture's.
    """
    out = image.astype(np.float32)
    for index, mask in enumerate(masks):
        if mask.shape != image.shape[:2]:
            raise ValueError(f"mask {index} is {mask.shape}, the picture {image.shape[:2]}")
        colour = np.array(colour_of(index), np.float32)
        out[mask] = (1 - OPACITY) * out[mask] + OPACITY * colour
        out[_outline(mask)] = colour
    return np.clip(out.round(), 0, 255).astype(np.uint8)


def paint(
    image: UInt8[np.ndarray, "h w 3"], text: str, layers: Sequence[Layer], question: str = ""
) -> Image.Image:
    """The picture with its masks, and below it question and text with coloured phrases."""
    picture = Image.fromarray(overlay(image, [layer.mask for layer in layers]))
    if picture.width < MIN_WIDTH:
        height = round(picture.height * MIN_WIDTH / picture.width)
        picture = picture.resize((MIN_WIDTH, height), Image.Resampling.NEAREST)
    size = max(14, picture.width // 45)
    lines = _lines(_words(question, []), picture.width, size) if question else []
    lines += _lines(_words(text, layers), picture.width, size)
    lines += _lines(_legend(text, layers), picture.width, size)
    step = round(1.5 * size)
    sheet = Image.new("RGB", (picture.width, picture.height + step * len(lines) + size), PAPER)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for row, line in enumerate(lines):
        _draw_line(draw, size, (size // 2, picture.height + size // 2 + row * step), line)
    return sheet


_Word = tuple[str, int | None]  # a word and the mask it belongs to


def _outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _words(text: str, layers: Sequence[Layer]) -> list[_Word]:
    """Words of the text, each with the layer whose phrase it stands in."""
    words: list[_Word] = []
    place = 0
    for word in text.split():
        place = text.index(word, place)
        owner = next((i for i, x in enumerate(layers) if x.start <= place < x.end), None)
        words.append((word, owner))
        place += len(word)
    return words


def _legend(text: str, layers: Sequence[Layer]) -> list[_Word]:
    """Phrases that do not stand in the text."""
    return [(layer.phrase, i) for i, layer in enumerate(layers) if layer.start >= layer.end]


def _lines(words: list[_Word], width: int, size: int) -> list[list[_Word]]:
    font = ImageFont.load_default(size)
    lines: list[list[_Word]] = [[]]
    used = size // 2
    for word in words:
        length = font.getlength(word[0] + " ")
        if lines[-1] and used + length > width - size // 2:
            lines.append([])
            used = size // 2
        lines[-1].append(word)
        used += length
    return [line for line in lines if line]


def _draw_line(
    draw: ImageDraw.ImageDraw, size: int, at: tuple[int, int], line: list[_Word]
) -> None:
    font = ImageFont.load_default(size)
    x, y = float(at[0]), at[1]
    for word, owner in line:
        length = font.getlength(word + " ")
        if owner is not None:
            box = (x - 2, y, x + font.getlength(word) + 2, y + round(1.3 * size))
            draw.rectangle(box, fill=colour_of(owner))
        draw.text((x, y), word, fill=INK, font=font)
        x += length
