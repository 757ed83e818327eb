"""Images with coloured masks and boxes, and with coloured text below.

    question = ColouredText("Where is the dog?")
    answer = ColouredText("A dog runs.", [MaskLayer("A dog", mask, start=0, end=5)])
    draw_overlay(image, [question, answer]).save("dog.png")

Every phrase has the colour of its mask. Phrases without a position in the text are appended to it.
Needs numpy and PIL only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]

# The first ones can be distinguished by colour-blind readers.
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
OPACITY = 0.35  # of a mask's tint; the colour of the object remains visible
INK, PAPER, RULE = (30, 30, 30), (255, 255, 255), (200, 200, 200)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
MIN_WIDTH = 480


@dataclass(frozen=True)
class MaskLayer:
    """A mask and its phrase.

    Attributes:
        phrase: the phrase.
        mask: the mask.
        start: first character of the phrase in the text.
        end: character behind the last one; not greater than `start`: the phrase is not in the text.
    """

    phrase: str
    mask: Bool[np.ndarray, "h w"]
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class ColouredText:
    """A text below the image, and the masks of its phrases."""

    text: str
    layers: Sequence[MaskLayer] = ()


def colour_of(index: int) -> Colour:
    """Return the colour of a mask by its index; the palette is repeated."""
    return PALETTE[index % len(PALETTE)]


def text_colour_on(colour: Colour) -> Colour:
    """Return black or white, whichever has the higher contrast: at least 4.58 on any colour."""
    return max(BLACK, WHITE, key=lambda text: contrast(text, colour))


def contrast(a: Colour, b: Colour) -> float:
    """Return the contrast ratio of two colours, 1 to 21.

    Source: Web Content Accessibility Guidelines 2.2, "contrast ratio".
    """
    darker, lighter = sorted((_luminance(a), _luminance(b)))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Colour) -> float:
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4
        for x in (channel / 255 for channel in colour)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    masks: Sequence[Bool[np.ndarray, "h w"]],
    opacity: float = OPACITY,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return an image with tinted masks, later ones on top, each with a solid contour.

    Args:
        image: RGB image.
        masks: in the order of their colours.
        opacity: of the masks, 0 to 1.

    Raises:
        ValueError: a mask has another size than the image.
    """
    out = image.astype(np.float32)
    width = contour_width(*image.shape[:2])
    for index, mask in enumerate(masks):
        if mask.shape != image.shape[:2]:
            raise ValueError(f"mask {index} is {mask.shape}, the image {image.shape[:2]}")
        colour = np.array(colour_of(index), np.float32)
        out[mask] = (1 - opacity) * out[mask] + opacity * colour
        inner = mask
        for _ in range(width):
            padded = np.pad(inner, 1)
            inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2]
            inner &= padded[1:-1, 2:]
        out[mask & ~inner] = colour
    return np.clip(out.round(), 0, 255).astype(np.uint8)


def contour_width(height: int, width: int) -> int:
    """Return the width of a mask's contour in pixels; it stays visible where images are reduced."""
    return max(1, max(height, width) // 200)


def draw_overlay(
    image: UInt8[np.ndarray, "h w 3"],
    passages: Sequence[ColouredText],
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"] | None = None,
) -> Image.Image:
    """Return the image with its masks and numbered boxes, and the texts below it.

    Args:
        image: RGB image.
        passages: the texts; the colours of their masks are numbered consecutively.
        boxes_xyxy_pixel: boxes in pixels of the image.

    Raises:
        ValueError: a mask has another size than the image.
    """
    layers = [layer for passage in passages for layer in passage.layers]
    height, width = image.shape[:2]
    scale = max(1.0, MIN_WIDTH / width)
    masks = [layer.mask for layer in layers]
    if scale > 1 and all(mask.shape == (height, width) for mask in masks):
        # Enlarged first, so that contours of small images do not cover their objects.
        rows = np.arange(max(1, round(height * scale))) * height // max(1, round(height * scale))
        columns = np.arange(MIN_WIDTH) * width // MIN_WIDTH
        image = image[rows][:, columns]
        masks = [mask[rows][:, columns] for mask in masks]
    canvas = Image.fromarray(overlay(image, masks))
    font_size = max(14, canvas.width // 45)
    if boxes_xyxy_pixel is not None:
        _draw_boxes(canvas, boxes_xyxy_pixel * scale, font_size)
    blocks, first_mask = [], 0
    for passage in passages:
        blocks.append(wrap_words(coloured_words(passage, first_mask), canvas.width, font_size))
        first_mask += len(passage.layers)
    return _append_text(canvas, [lines for lines in blocks if lines], font_size)


Word = tuple[str, int | None]  # a word and the index of its mask


def coloured_words(passage: ColouredText, first_mask: int) -> list[Word]:
    """Return the words of the text with their masks, then the phrases that are not in the text."""
    words: list[Word] = []
    position = 0
    for word in passage.text.split():
        position = passage.text.index(word, position)
        end = position + len(word)
        layers = (i for i, x in enumerate(passage.layers) if x.start < end and position < x.end)
        layer = next(layers, None)
        words.append((word, None if layer is None else first_mask + layer))
        position = end
    absent = [i for i, layer in enumerate(passage.layers) if layer.start >= layer.end]
    return words + [(passage.layers[i].phrase, first_mask + i) for i in absent]


def wrap_words(words: list[Word], width: int, font_size: int) -> list[list[Word]]:
    """Break words into lines.

    Args:
        words: of a text.
        width: of a line in pixels, margins included.
        font_size: in pixels.
    """
    font = ImageFont.load_default(font_size)
    lines: list[list[Word]] = [[]]
    used = font_size // 2
    for word in words:
        length = font.getlength(word[0] + " ")
        if lines[-1] and used + length > width - font_size // 2:
            lines.append([])
            used = font_size // 2
        lines[-1].append(word)
        used += length
    return [line for line in lines if line]


def _append_text(image: Image.Image, blocks: list[list[list[Word]]], font_size: int) -> Image.Image:
    """Return the image with blocks of lines below it, separated by thin rules."""
    line_height, gap = round(1.5 * font_size), font_size
    height = sum(line_height * len(lines) + gap for lines in blocks)
    sheet = Image.new("RGB", (image.width, image.height + height), PAPER)
    sheet.paste(image, (0, 0))
    draw = ImageDraw.Draw(sheet)
    y = image.height
    for lines in blocks:
        if y > image.height:
            draw.line((font_size // 2, y, image.width - font_size // 2, y), fill=RULE)
        for row, line in enumerate(lines):
            position = (font_size // 2, y + gap // 2 + row * line_height)
            _draw_line(draw, font_size, position, line)
        y += line_height * len(lines) + gap
    return sheet


def _draw_line(
    draw: ImageDraw.ImageDraw, font_size: int, position: tuple[int, int], line: list[Word]
) -> None:
    font = ImageFont.load_default(font_size)
    x, y = float(position[0]), position[1]
    for i, (word, mask) in enumerate(line):
        length, ink = font.getlength(word + " "), INK
        if mask is not None:
            ink = text_colour_on(colour_of(mask))
            continues = i + 1 < len(line) and line[i + 1][1] == mask
            right = x + (length if continues else font.getlength(word) + 2)
            draw.rectangle((x - 2, y, right, y + round(1.3 * font_size)), fill=colour_of(mask))
        draw.text((x, y), word, fill=ink, font=font)
        x += length


def _draw_boxes(image: Image.Image, boxes: Float[np.ndarray, "r 4"], font_size: int) -> None:
    """Draw the outlines of boxes, clipped to the image, with their numbers at the top left."""
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(font_size)
    width = max(2, font_size // 8)
    clipped = np.clip(boxes, 0, np.tile(np.array(image.size) - 1, 2))
    for number, (x0, y0, x1, y1) in enumerate(clipped.tolist(), start=1):
        draw.rectangle((x0, y0, x1, y1), outline=INK, width=2 * width)
        draw.rectangle((x0, y0, x1, y1), outline=PAPER, width=width)
        label = f" {number} "
        right, bottom = x0 + font.getlength(label), y0 + round(1.3 * font_size)
        draw.rectangle((x0, y0, right, bottom), fill=PAPER)
        draw.text((x0, y0), label, fill=INK, font=font)
