"""An image with masks as an SVG file: what `mask_overlay.draw_overlay` draws, as shapes and text.

Every mask is a path with the name of its phrase (the title that a browser shows under the pointer),
so that a drawing program can change colours and texts. The file refers to no other file.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFont

from glamm_jax.data import rle
from glamm_jax.report.html_page import escape, hex_colour, jpeg_uri
from glamm_jax.report.mask_outlines import outline_of_runs
from glamm_jax.report.mask_overlay import (
    MIN_WIDTH,
    OPACITY,
    ColouredText,
    MaskLayer,
    Word,
    colour_of,
    coloured_words,
    contour_width,
    text_colour_on,
    wrap_words,
)

MAX_SVG_SIDE = 2048  # longer side of the embedded image, and of the masks that are traced
# Not allowed in XML, not even escaped.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def svg_overlay(
    image: UInt8[np.ndarray, "h w 3"],
    passages: Sequence[ColouredText],
    boxes_xyxy_pixel: Float[np.ndarray, "r 4"] | None = None,
) -> str:
    """Return an SVG of the image with its masks and numbered boxes, and the texts below it.

    Args:
        image: RGB image.
        passages: the texts; the colours of their masks are numbered consecutively.
        boxes_xyxy_pixel: boxes in pixels of the image.

    Raises:
        ValueError: a mask has another size than the image.
    """
    height, width = image.shape[:2]
    scale = max(MIN_WIDTH, width) / width
    sheet_width, image_height = round(width * scale), round(height * scale)
    font_size = max(14, sheet_width // 45)
    rows, columns = rle.size_within((height, width), (MAX_SVG_SIDE, MAX_SVG_SIDE))
    small = Image.fromarray(image).resize((columns, rows), Image.Resampling.LANCZOS)
    parts = [
        f'<image width="{sheet_width}" height="{image_height}" preserveAspectRatio="none" '
        f'href="{jpeg_uri(np.asarray(small))}"/>'
    ]
    layers = [layer for passage in passages for layer in passage.layers]
    for index, layer in enumerate(layers):
        if layer.mask.shape != (height, width):
            raise ValueError(f"mask {index} is {layer.mask.shape}, the image {(height, width)}")
        parts.append(_mask(index, layer, (image_height, sheet_width)))
    for number, box in enumerate([] if boxes_xyxy_pixel is None else boxes_xyxy_pixel, start=1):
        parts.append(_box(number, box * scale, font_size))
    y, first_mask, line_height = float(image_height), 0, 1.5 * font_size
    for passage in passages:
        lines = wrap_words(coloured_words(passage, first_mask), sheet_width, font_size)
        first_mask += len(passage.layers)
        for row, line in enumerate(lines):
            parts.append(_text_line(line, y + font_size / 2 + row * line_height, font_size))
        y += len(lines) * line_height + font_size if lines else 0
    sheet_height = round(y)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{sheet_width}" height="{sheet_height}" '
        f'viewBox="0 0 {sheet_width} {sheet_height}" font-family="sans-serif" '
        f'font-size="{font_size}"><rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _mask(index: int, layer: MaskLayer, shown_size: tuple[int, int]) -> str:
    """Return the path of a mask, in the colour of its index, scaled to the size of the image."""
    path, size = outline_of_runs(rle.encode_counts(layer.mask), MAX_SVG_SIDE)
    scale_y, scale_x = (shown / side for shown, side in zip(shown_size, size, strict=True))
    colour = hex_colour(index)
    return (
        f'<path d="{path}" transform="scale({scale_x:g} {scale_y:g})" fill="{colour}" '
        f'fill-opacity="{OPACITY}" fill-rule="evenodd" stroke="{colour}" '
        f'stroke-width="{contour_width(*shown_size)}" vector-effect="non-scaling-stroke">'
        f"<title>{_text(layer.phrase)}</title></path>"
    )


def _box(number: int, box: Float[np.ndarray, "4"], font_size: int) -> str:
    x0, y0, x1, y1 = box.tolist()
    place = f'x="{x0:.2f}" y="{y0:.2f}" width="{x1 - x0:.2f}" height="{y1 - y0:.2f}"'
    label_width = 0.6 * font_size * (len(str(number)) + 1)
    return (
        f'<g fill="none"><rect {place} stroke="#1e1e1e" stroke-width="{font_size / 4:g}"/>'
        f'<rect {place} stroke="#fff" stroke-width="{font_size / 8:g}"/>'
        f'<rect x="{x0:.2f}" y="{y0:.2f}" width="{label_width:.2f}" height="{1.3 * font_size:.2f}" '
        f'fill="#fff"/><text x="{x0 + 0.3 * font_size:.2f}" y="{y0 + font_size:.2f}" '
        f'fill="#1e1e1e">{number}</text></g>'
    )


def _text_line(line: Sequence[Word], top: float, font_size: int) -> str:
    """Return the words of a line; those of a phrase are on a ground in the colour of its mask."""
    font = ImageFont.load_default(font_size)
    parts, x = [], font_size / 2
    for i, (word, mask) in enumerate(line):
        width, ink = font.getlength(word), "#1e1e1e"
        if mask is not None:
            continues = i + 1 < len(line) and line[i + 1][1] == mask
            ground = width + (font.getlength(" ") if continues else 2)
            ink = "#{:02x}{:02x}{:02x}".format(*text_colour_on(colour_of(mask)))
            parts.append(
                f'<rect x="{x - 2:.2f}" y="{top:.2f}" width="{ground + 2:.2f}" '
                f'height="{1.3 * font_size:.2f}" fill="{hex_colour(mask)}"/>'
            )
        # Other fonts are wider or narrower than the one that broke the lines.
        parts.append(
            f'<text x="{x:.2f}" y="{top + font_size:.2f}" textLength="{width:.2f}" '
            f'lengthAdjust="spacingAndGlyphs" fill="{ink}">{_text(word)}</text>'
        )
        x += font.getlength(word + " ")
    return "".join(parts)


def _text(text: str) -> str:
    return escape(_CONTROL.sub("\N{REPLACEMENT CHARACTER}", text))
