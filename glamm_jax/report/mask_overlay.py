"""The one painter of masks and phrases: a picture, its masks in colour, the words below.

    question = Passage("Where is the dog?")
    answer = Passage("A dog runs.", [Layer("A dog", mask, start=0, end=5)])
    paint(image, [question, answer]).save("dog.png")

Every phrase has the colour of its mask; phrases that have no place in their text stand behind it.
Numpy and PIL only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
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
INK, PAPER, RULE = (30, 30, 30), (255, 255, 255), (200, 200, 200)
MIN_WIDTH = 480


@dataclass(frozen=True)
class MaskLayer:
    """One mask and the phrase it belongs to; start and end are its place in the text, if any."""

    phrase: str
    mask: Bool[np.ndarray, "h w"]
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class ColouredText:
    """Words below the picture, and the masks that they speak of."""

    text: str
    layers: Sequence[MaskLayer] = ()


def colour_of(index: int) -> Colour:
    """The colour of the index-th mask. Colours repeat; they never run out."""
    return PALETTE[index % len(PALETTE)]


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[Bool[np.ndarray, "h w"]],
    opacity: float = OPACITY,
) -> UInt8[np.ndarray, "h w 3"]:
    """Masks laid over a picture, later ones on top, each with a sharp outline.

    Raises: ValueError naming the mask whose size is not the picture's.
    """
    out = image.astype(np.float32)
    for index, mask in enumerate(masks):
        if mask.shape != image.shape[:2]:
            raise ValueError(f"mask {index} is {mask.shape}, the picture {image.shape[:2]}")
        colour = np.array(colour_of(index), np.float32)
        out[mask] = (1 - opacity) * out[mask] + opacity * colour
        out[_outline(mask)] = colour
    return np.clip(out.round(), 0, 255).astype(np.uint8)


def draw_overlay(
    image: UInt8[np.ndarray, "h w 3"],
    passages: Sequence[ColouredText],
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"] | None = None,
) -> Image.Image:
    """The picture with its masks and numbered boxes, and below it one passage after the other.

    Raises: ValueError naming the mask whose size is not the picture's.
    """
    layers = [layer for passage in passages for layer in passage.layers]
    picture = Image.fromarray(overlay(image, [layer.mask for layer in layers]))
    scale = max(1.0, MIN_WIDTH / picture.width)
    if scale > 1:
        size = (MIN_WIDTH, max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.NEAREST)
    size = max(14, picture.width // 45)
    if boxes_xyxy_pixel is not None:
        _draw_boxes(picture, boxes_xyxy_pixel * scale, size)
    blocks, first = [], 0
    for passage in passages:
        blocks.append(_lines(_words(passage, first), picture.width, size))
        first += len(passage.layers)
    return _sheet(picture, [lines for lines in blocks if lines], size)


_Word = tuple[str, int | None]  # a word and the mask it belongs to


def _outline(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner


def _words(passage: ColouredText, first: int) -> list[_Word]:
    """Words of the text, each with the layer whose phrase it stands in, then the other phrases."""
    words: list[_Word] = []
    place = 0
    for word in passage.text.split():
        place = passage.text.index(word, place)
        end = place + len(word)
        inside = (i for i, x in enumerate(passage.layers) if x.start < end and place < x.end)
        owner = next(inside, None)
        words.append((word, None if owner is None else first + owner))
        place = end
    absent = [i for i, layer in enumerate(passage.layers) if layer.start >= layer.end]
    return words + [(passage.layers[i].phrase, first + i) for i in absent]


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


def _sheet(picture: Image.Image, blocks: list[list[list[_Word]]], size: int) -> Image.Image:
    """The picture and blocks of lines below it, a thin rule between them."""
    step, gap = round(1.5 * size), size
    height = sum(step * len(lines) + gap for lines in blocks)
    sheet = Image.new("RGB", (picture.width, picture.height + height), PAPER)
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    y = picture.height
    for lines in blocks:
        if y > picture.height:
            draw.line((size // 2, y, picture.width - size // 2, y), fill=RULE)
        for row, line in enumerate(lines):
            _draw_line(draw, size, (size // 2, y + gap // 2 + row * step), line)
        y += step * len(lines) + gap
    return sheet


def _draw_line(
    draw: ImageDraw.ImageDraw, size: int, at: tuple[int, int], line: list[_Word]
) -> None:
    font = ImageFont.load_default(size)
    x, y = float(at[0]), at[1]
    for i, (word, owner) in enumerate(line):
        length = font.getlength(word + " ")
        if owner is not None:
            goes_on = i + 1 < len(line) and line[i + 1][1] == owner
            right = x + (length if goes_on else font.getlength(word) + 2)
            draw.rectangle((x - 2, y, right, y + round(1.3 * size)), fill=colour_of(owner))
        draw.text((x, y), word, fill=INK, font=font)
        x += length


def _draw_boxes(picture: Image.Image, boxes: Float[np.ndarray, "r 4"], size: int) -> None:
    """Outlines, each with its number at the top left, as far as they lie on the picture."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size)
    width = max(2, size // 8)
    inside = np.clip(boxes, 0, np.tile(np.array(picture.size) - 1, 2))
    for number, (x0, y0, x1, y1) in enumerate(inside.tolist(), start=1):
        draw.rectangle((x0, y0, x1, y1), outline=INK, width=2 * width)
        draw.rectangle((x0, y0, x1, y1), outline=PAPER, width=width)
        label = f" {number} "
        draw.rectangle((x0, y0, x0 + font.getlength(label), y0 + round(1.3 * size)), fill=PAPER)
        draw.text((x0, y0), label, fill=INK, font=font)
