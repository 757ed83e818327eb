"""Web pages of a single file: images are embedded, no scripts, light and dark colour scheme.

    page = Page("shards/glamm_refcoco", "12 images")
    page.section("Samples")
    page.cards([Card(image, [TextLine("A dog runs.", [TextMark(0, 5, 0)])], masks=[dog])])
    page.save(Path("page.html"))

Marked text has the colour of its mask (`report.mask_overlay`). An image shows its masks unless the
pointer hovers over it. All text is escaped, and a content policy forbids the page to load anything.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.files import write_atomic
from glamm_jax.report.curves import Curve, curves_svg
from glamm_jax.report.histogram import histogram_svg
from glamm_jax.report.mask_overlay import colour_of, overlay
from glamm_jax.storage import AnyPath

MAX_SIDE = 640  # longer side of an embedded image in pixels
JPEG_QUALITY = 88
MAX_LISTED = 50  # places listed of one kind
LABEL_SHARE = 26  # the longer side of an image is so many times as long as a label is high
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TextMark:
    """A coloured range of characters of a line.

    Attributes:
        start: first character.
        end: character behind the last one.
        colour: index of the colour, that of a mask or box of the card.
        is_token: shown as a special token.
    """

    start: int
    end: int
    colour: int
    is_token: bool = False


@dataclass(frozen=True)
class TextLine:
    """A line of text.

    Attributes:
        text: the text.
        marks: coloured ranges, in order and without overlap; others are ignored.
        speaker: name in front of the text.
        note: text in small print after it.
        is_question: shown in a weaker colour.
    """

    text: str
    marks: Sequence[TextMark] = ()
    speaker: str = ""
    note: str = ""
    is_question: bool = False


@dataclass(frozen=True)
class Card:
    """An image with text.

    Attributes:
        image: the image.
        lines: text below it.
        masks: the i-th mask has colour i; None: no mask of that colour.
        boxes_xyxy_pixel: the i-th box has colour i; None: no box of that colour.
        title: heading above the text.
        box_labels: the i-th is written in the corner of the i-th box; may be empty.
    """

    image: UInt8[np.ndarray, "h w 3"]
    lines: Sequence[TextLine]
    masks: Sequence[Bool[np.ndarray, "h w"] | None] = ()
    boxes_xyxy_pixel: Sequence[Box | None] = ()
    title: str = ""
    box_labels: Sequence[str] = ()


class Page:
    """A page, written from top to bottom."""

    def __init__(self, title: str, subtitle: str = ""):
        self._title = title
        self._body = [f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>"]
        self._links: dict[int, list[str]] = {2: [], 3: []}

    def section(self, title: str, level: int = 2) -> None:
        """Add a heading of level 2 or 3.

        The page begins with links to the headings of level 2, or to those of level 3 if there is at
        most one of level 2.
        """
        anchor = f"s{len(self._body)}"
        self._links[level].append(f'<a href="#{anchor}">{escape(title)}</a>')
        self._body.append(f'<h{level} id="{anchor}">{escape(title)}</h{level}>')

    def facts(self, facts: Mapping[str, int]) -> None:
        """Add a row of numbers with their names."""
        tiles = (f"<div><b>{number:,}</b>{escape(name)}</div>" for name, number in facts.items())
        self._body.append(f'<div class="facts">{"".join(tiles)}</div>')

    def paragraph(self, text: str, marks: Sequence[TextMark] = ()) -> None:
        """Add a paragraph, parts of which may be marked."""
        self._body.append(_line(TextLine(text, marks)))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Add a table; numbers are right-aligned. A cell may be a `TextLine` with marks."""
        head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
        content = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        self._body.append(f'<div class="wide"><table>{content}</table></div>')

    def collapsed(self, summary: str, lines: Sequence[str]) -> None:
        """Add a list that is collapsed at first."""
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        self._body.append(
            f"<details><summary>{escape(summary)}</summary><ul>{items}</ul></details>"
        )

    def counts_by_kind(self, places_by_kind: Mapping[str, Sequence[str]]) -> None:
        """Add a table of counts, the most frequent kind first, and collapsed lists of places."""
        if not places_by_kind:
            self.paragraph("None.")
            return
        kinds = sorted(places_by_kind, key=lambda kind: -len(places_by_kind[kind]))
        self.table(("kind", "count"), [(kind, len(places_by_kind[kind])) for kind in kinds])
        for kind in kinds:
            places = list(places_by_kind[kind])
            lines = places[:MAX_LISTED]
            if len(places) > MAX_LISTED:
                lines.append(f"and {len(places) - MAX_LISTED:,} more")
            self.collapsed(f"{kind}: where", lines)

    def histograms(self, values: Mapping[str, Sequence[float]]) -> None:
        """Add a histogram for each name, side by side; names without values are left out."""
        figures = (
            f"<figure><figcaption>{escape(name)}</figcaption>{histogram_svg(numbers)}</figure>"
            for name, numbers in values.items()
            if len(numbers)
        )
        self._body.append(f'<div class="histograms">{"".join(figures)}</div>')

    def curves(self, drawings: Mapping[str, Mapping[str, Curve]]) -> None:
        """Add drawings of curves over steps, side by side: title -> name of a curve -> curve."""
        figures = (
            f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>"
            for name, curves in drawings.items()
            if (svg := curves_svg({escape(key): curve for key, curve in curves.items()}))
        )
        self._body.append(f'<div class="drawings">{"".join(figures)}</div>')

    def text_block(self, text: str) -> None:
        """Add a text with its line breaks, in a fixed-width font."""
        self._body.append(f"<pre>{escape(text)}</pre>")

    def cards(self, cards: Sequence[Card], *, large: bool = False) -> None:
        """Add cards side by side; their number in a row depends on the width of the window.

        Args:
            cards: to add.
            large: at most three in a row.
        """
        css_class = "cards large" if large else "cards"
        self._body.append(f'<div class="{css_class}">{"".join(map(_card, cards))}</div>')

    def groups(self, groups: Sequence[Sequence[Card]]) -> None:
        """Add groups of cards; the cards of a group, as prediction and reference, are in a row."""
        content = (
            f'<div class="cards group">{"".join(map(_card, group))}</div>' for group in groups
        )
        self._body.append(f'<div class="groups">{"".join(content)}</div>')

    def html(self) -> str:
        """Return the complete page."""
        head, *body = self._body
        links = self._links[2] if len(self._links[2]) > 1 else self._links[3]
        nav = f"<nav>{' '.join(links)}</nav>" if links else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(self._title)}</title><style>{STYLE}</style></head>\n"
            f"<body>{head}{nav}<main>\n" + "\n".join(body) + "\n</main></body></html>\n"
        )

    def save(self, path: AnyPath) -> None:
        """Write the page atomically."""
        write_atomic(path, self.html())


def escape(value: object) -> str:
    """Return escaped text; lone surrogates, which UTF-8 cannot encode, become question marks."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
        return f'<td class="number">{text}</td>'
    if isinstance(value, TextLine):
        return f"<td>{_marked(value)}</td>"
    return f"<td>{escape(value)}</td>"


def _card(card: Card) -> str:
    title = f"<h3>{escape(card.title)}</h3>" if card.title else ""
    lines = "".join(map(_line, card.lines))
    return f'<article>{_image_layers(card)}<div class="text">{title}{lines}</div></article>'


def _marked(line: TextLine) -> str:
    """Return the text; marks that overlap, are out of order or exceed the text are ignored."""
    pieces, position = [], 0
    for mark in line.marks:
        if not position <= mark.start < mark.end <= len(line.text):
            continue
        pieces.append(escape(line.text[position : mark.start]))
        css_class = ' class="token"' if mark.is_token else ""
        text = escape(line.text[mark.start : mark.end])
        pieces.append(f'<mark{css_class} style="--c:{hex_colour(mark.colour)}">{text}</mark>')
        position = mark.end
    pieces.append(escape(line.text[position:]))
    if line.note:
        pieces.append(f" <small>{escape(line.note)}</small>")
    return "".join(pieces)


def _line(line: TextLine) -> str:
    content = _marked(line)
    if not line.speaker:
        return f"<p>{content}</p>"
    css_class = "turn question" if line.is_question else "turn"
    return f'<p class="{css_class}"><b>{escape(line.speaker)}</b><span>{content}</span></p>'


def hex_colour(colour: int) -> str:
    """Return the colour of a mask by its index, as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour_of(colour))


def _image_layers(card: Card) -> str:
    """Return the image, above it the image with masks, above that the boxes."""
    height, width = card.image.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(card.image).resize(size, Image.Resampling.LANCZOS))
    layers = [_image(small, "the image")]
    if any(mask is not None for mask in card.masks):
        empty = np.zeros(size[::-1], bool)
        masks = [empty if mask is None else _resize_mask(mask, size) for mask in card.masks]
        layers.append(_image(overlay(small, masks), "the image with its masks"))
    boxes = "".join(
        f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" stroke="{hex_colour(i)}"/>'
        for i, box in enumerate(card.boxes_xyxy_pixel)
        if box is not None
        for x0, y0, x1, y1 in (box,)
    )
    boxes += _box_labels(card, max(height, width) / LABEL_SHARE)
    if boxes:
        layers.append(f'<svg viewBox="0 0 {width} {height}">{boxes}</svg>')
    return f'<div class="image" tabindex="0">{"".join(layers)}</div>'


def _box_labels(card: Card, size: float) -> str:
    """Return the labels of the boxes, in the upper left corner of each."""
    texts = []
    for i, (box, label) in enumerate(zip(card.boxes_xyxy_pixel, card.box_labels, strict=False)):
        if box is not None and label:
            width = size * (0.65 * len(label) + 0.4)
            x, y = box[0], box[1]
            place = f'x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{1.2 * size:.2f}"'
            texts.append(
                f'<g class="label"><rect {place} style="fill:{hex_colour(i)}"/>'
                f'<text x="{x + width / 2:.2f}" y="{y + 0.97 * size:.2f}" font-size="{size:.2f}" '
                f'text-anchor="middle">{escape(label)}</text></g>'
            )
    return "".join(texts)


def _resize_mask(mask: Bool[np.ndarray, "h w"], size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def jpeg_uri(pixels: UInt8[np.ndarray, "h w 3"]) -> str:
    """Return an image as a `data:` URI."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{data}"


def _image(pixels: UInt8[np.ndarray, "h w 3"], alt: str) -> str:
    return f'<img alt="{alt}" src="{jpeg_uri(pixels)}">'


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #fff; --ink: #22252a; --soft: #6b7078;
  --rule: #e3e3df; --accent: #2f6fb3; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --card: #1e2125; --ink: #e4e6e9;
  --soft: #9aa0a8; --rule: #33373d; --accent: #6aa9e9; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 1500px;
  background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 1.6rem; overflow-wrap: anywhere; }
header p { margin: .2rem 0 0; color: var(--soft); }
h2 { margin: 2.5rem 0 .8rem; padding-bottom: .3rem; border-bottom: 1px solid var(--rule);
  font-size: 1.2rem; }
h3 { margin: 1.4rem 0 .5rem; font-size: 1rem; }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1.1rem; margin: 1rem 0; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: .3rem 1.2rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; overflow-wrap: break-word; }
th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
.facts { display: flex; flex-wrap: wrap; gap: .6rem 1.7rem; }
.facts div { color: var(--soft); font-size: .87rem; }
.facts b { display: block; color: var(--ink); font-size: 1.25rem; font-weight: 600; }
.number { text-align: right; }
details { margin: .4rem 0; }
summary { cursor: pointer; color: var(--soft); }
details ul { font-size: .87rem; overflow-wrap: anywhere; }
.cards { display: grid; gap: 1.1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 270px), 1fr)); }
.cards.large { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)); }
pre { overflow-x: auto; margin: .6rem 0; padding: .7rem .9rem; border: 1px solid var(--rule);
  border-radius: 8px; background: var(--card); font: 13px/1.5 ui-monospace, monospace;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.groups { display: grid; gap: 1.1rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)); }
.cards.group { gap: .5rem; grid-template-columns: none; grid-auto-flow: column;
  grid-auto-columns: minmax(0, 1fr); }
article { overflow: hidden; border: 1px solid var(--rule); border-radius: 8px;
  background: var(--card); }
.image { position: relative; display: grid; }
.image > * { grid-area: 1 / 1; width: 100%; display: block; }
.image img { transition: opacity .15s; }
.image:hover img:nth-of-type(2), .image:focus img:nth-of-type(2) { opacity: 0; }
.image rect { fill: none; stroke-width: 2.5px; vector-effect: non-scaling-stroke;
  paint-order: stroke; }
.image .label rect { stroke: none; }
.image .label text { fill: #111; font-weight: 600; font-family: system-ui, sans-serif; }
.text { padding: .6rem .9rem .8rem; }
.text h3 { margin: 0 0 .4rem; color: var(--soft); font-size: .8rem; font-weight: 500;
  overflow-wrap: anywhere; }
.text p { margin: .3rem 0; overflow-wrap: anywhere; }
.text .turn { display: grid; grid-template-columns: minmax(3.6rem, max-content) 1fr;
  column-gap: .5rem; align-items: baseline; }
.cards.group .text .turn, .cards.group .turn b { display: block; }
.turn b { color: var(--soft); font-weight: 500; font-size: .8rem; }
.question span { color: var(--soft); }
small { color: var(--soft); }
mark { padding: 0 .15em; border-bottom: 2px solid var(--c); border-radius: 3px; color: inherit;
  background: color-mix(in srgb, var(--c) 30%, transparent); }
.turn mark { color: var(--ink); }
mark.token { padding: 0 .4em; border: 0; border-radius: 1em; font: .78em ui-monospace, monospace;
  background: color-mix(in srgb, var(--c) 45%, transparent); }
.histograms { display: grid; gap: 1.1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 200px), 1fr)); }
.drawings { display: grid; gap: 1.1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); }
.curves { width: 100%; }
.curves polyline { fill: none; stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.curves line { stroke: var(--rule); }
.curves text { fill: var(--soft); font-size: 11px; }
figure { margin: 0; }
figcaption { margin-bottom: .2rem; color: var(--soft); font-size: .87rem; }
.histogram { width: 100%; }
.histogram rect { fill: var(--accent); }
.histogram line { stroke: var(--rule); }
.histogram text { fill: var(--soft); font-size: 12px; }
"""
