"""The one writer of web pages: a single file with its pictures in it, no script, light and dark.

    page = Page("shards/glamm_refcoco", "what is in it")
    page.section("Samples")
    page.cards([Card(image, (Line("A dog runs.", (Mark(0, 5, 0),)),), masks=(dog,))])
    page.save(Path("page.html"))

Marked words have the colour of their mask (`report.paint`). A picture shows its masks until the
pointer rests on it. Everything that is written is escaped, and the page may load nothing.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.files import write_atomic
from glamm_jax.report.curves import Curve, curves_svg
from glamm_jax.report.histogram import histogram_svg
from glamm_jax.report.mask_overlay import colour_of, overlay

MAX_SIDE = 640  # pixels of an embedded picture
JPEG_QUALITY = 88
MAX_NAMED = 50  # places of one kind
OPACITY = 0.5  # of masks: stuff may cover the whole picture, which should still be seen
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class TextMark:
    """Words [start, end) of a line that have the colour of this number; a token is in capsules."""

    start: int
    end: int
    colour: int
    is_token: bool = False


@dataclass(frozen=True)
class TextLine:
    """A text with its marks, in order.

    speaker: who says it. note: small print behind it. is_question: shown softly.
    """

    text: str
    marks: Sequence[TextMark] = ()
    speaker: str = ""
    note: str = ""
    is_question: bool = False


@dataclass(frozen=True)
class Card:
    """A picture with what is said about it.

    masks, boxes_xyxy_pixel: in the colours 0, 1, ... of the marks; None where there is none.
    """

    image: UInt8[np.ndarray, "h w 3"]
    lines: Sequence[TextLine]
    masks: Sequence[Bool[np.ndarray, "h w"] | None] = ()
    boxes_xyxy_pixel: Sequence[Box | None] = ()
    title: str = ""


class Page:
    """A page in the making, from top to bottom."""

    def __init__(self, title: str, subtitle: str = ""):
        self._title = title
        self._body = [f"<header><h1>{_text(title)}</h1><p>{_text(subtitle)}</p></header>"]
        self._links: dict[int, list[str]] = {2: [], 3: []}

    def section(self, title: str, level: int = 2) -> None:
        """A heading of level 2 or 3.

        The page begins with links to those of level 2, or, where there is one only, of level 3.
        """
        identity = f"s{len(self._body)}"
        self._links[level].append(f'<a href="#{identity}">{_text(title)}</a>')
        self._body.append(f'<h{level} id="{identity}">{_text(title)}</h{level}>')

    def facts(self, facts: Mapping[str, int]) -> None:
        """Numbers with their names, in a row."""
        tiles = (f"<div><b>{number:,}</b>{_text(name)}</div>" for name, number in facts.items())
        self._body.append(f'<div class="facts">{"".join(tiles)}</div>')

    def paragraph(self, text: str, marks: Sequence[TextMark] = ()) -> None:
        """Words, some of them marked."""
        self._body.append(_line(TextLine(text, marks)))

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Numbers stand to the right."""
        head = "".join(f"<th>{_text(cell)}</th>" for cell in header)
        body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
        rows_of = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        self._body.append(f'<div class="wide"><table>{rows_of}</table></div>')

    def folded(self, summary: str, lines: Sequence[str]) -> None:
        """Lines that are shown when asked for."""
        items = "".join(f"<li>{_text(line)}</li>" for line in lines)
        self._body.append(f"<details><summary>{_text(summary)}</summary><ul>{items}</ul></details>")

    def kinds(self, found: Mapping[str, Sequence[str]]) -> None:
        """How often each kind of thing was met, the most frequent first, and where."""
        if not found:
            self.paragraph("Nothing.")
            return
        kinds = sorted(found, key=lambda kind: -len(found[kind]))
        self.table(("kind", "number"), [(kind, len(found[kind])) for kind in kinds])
        for kind in kinds:
            places = list(found[kind][:MAX_NAMED])
            if len(found[kind]) > MAX_NAMED:
                places.append(f"and {len(found[kind]) - MAX_NAMED:,} more")
            self.folded(f"{kind}: where", places)

    def histograms(self, values: Mapping[str, Sequence[float]]) -> None:
        """One drawing a name, side by side; names without values are left out."""
        drawn = (
            f"<figure><figcaption>{_text(name)}</figcaption>{histogram_svg(numbers)}</figure>"
            for name, numbers in values.items()
            if len(numbers)
        )
        self._body.append(f'<div class="histograms">{"".join(drawn)}</div>')

    def curves(self, drawings: Mapping[str, Mapping[str, Curve]]) -> None:
        """One drawing a name, each of some curves over the steps, side by side."""
        drawn = (
            f"<figure><figcaption>{_text(name)}</figcaption>{svg}</figure>"
            for name, curves in drawings.items()
            if (svg := curves_svg({_text(key): curve for key, curve in curves.items()}))
        )
        self._body.append(f'<div class="drawings">{"".join(drawn)}</div>')

    def cards(self, cards: Sequence[Card]) -> None:
        """Pictures side by side, as many as the window takes."""
        self._body.append(f'<div class="cards">{"".join(map(_card, cards))}</div>')

    def groups(self, groups: Sequence[Sequence[Card]]) -> None:
        """Cards that belong together, such as what was said and what is true, stay side by side."""
        drawn = (f'<div class="cards group">{"".join(map(_card, group))}</div>' for group in groups)
        self._body.append(f'<div class="groups">{"".join(drawn)}</div>')

    def html(self) -> str:
        """The whole page."""
        head, *body = self._body
        links = self._links[2] if len(self._links[2]) > 1 else self._links[3]
        nav = f"<nav>{' '.join(links)}</nav>" if links else ""
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{_text(self._title)}</title><style>{STYLE}</style></head>\n"
            f"<body>{head}{nav}<main>\n" + "\n".join(body) + "\n</main></body></html>\n"
        )

    def save(self, path: Path) -> None:
        """Write it, all or nothing."""
        write_atomic(path, self.html())


def _text(value: object) -> str:
    """Escaped; halves of characters, which UTF-8 cannot hold, become question marks."""
    return html.escape(str(value).encode("utf-8", "replace").decode("utf-8"))


def _cell(value: object) -> str:
    if isinstance(value, int | float):
        shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
        return f'<td class="number">{shown}</td>'
    return f"<td>{_text(value)}</td>"


def _card(card: Card) -> str:
    title = f"<h3>{_text(card.title)}</h3>" if card.title else ""
    lines = "".join(map(_line, card.lines))
    return f'<article>{_pictures(card)}<div class="said">{title}{lines}</div></article>'


def _line(line: TextLine) -> str:
    """A text whose marks do not overlap; what is out of order or beyond its end is not marked."""
    pieces, done = [], 0
    for mark in line.marks:
        if not done <= mark.start < mark.end <= len(line.text):
            continue
        words = _text(line.text[mark.start : mark.end])
        pieces += [_text(line.text[done : mark.start]), _marked(words, mark)]
        done = mark.end
    pieces.append(_text(line.text[done:]))
    note = f" <small>{_text(line.note)}</small>" if line.note else ""
    said = "".join(pieces) + note
    if not line.speaker:
        return f"<p>{said}</p>"
    kind = "turn question" if line.is_question else "turn"
    return f'<p class="{kind}"><b>{_text(line.speaker)}</b><span>{said}</span></p>'


def _marked(words: str, mark: TextMark) -> str:
    kind = ' class="token"' if mark.is_token else ""
    return f'<mark{kind} style="--c:{_hex(mark.colour)}">{words}</mark>'


def _hex(colour: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour_of(colour))


def _pictures(card: Card) -> str:
    """The picture, over it the one with masks, over that the boxes."""
    height, width = card.image.shape[:2]
    scale = min(1.0, MAX_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(card.image).resize(size, Image.Resampling.LANCZOS))
    layers = [_image(small, "the picture")]
    if any(mask is not None for mask in card.masks):
        fitted = [_fitted(mask, size) for mask in card.masks]
        layers.append(_image(overlay(small, fitted, OPACITY), "the picture with its masks"))
    boxes = "".join(
        f'<rect x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}" stroke="{_hex(i)}"/>'
        for i, box in enumerate(card.boxes_xyxy_pixel)
        if box is not None
        for x0, y0, x1, y1 in (box,)
    )
    if boxes:
        layers.append(f'<svg viewBox="0 0 {width} {height}">{boxes}</svg>')
    return f'<div class="picture" tabindex="0">{"".join(layers)}</div>'


def _fitted(mask: Bool[np.ndarray, "h w"] | None, size: tuple[int, int]) -> np.ndarray:
    if mask is None:
        return np.zeros(size[::-1], bool)
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _image(pixels: UInt8[np.ndarray, "h w 3"], what: str) -> str:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img alt="{what}" src="data:image/jpeg;base64,{data}">'


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
.groups { display: grid; gap: 1.1rem 2rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 520px), 1fr)); }
.cards.group { gap: .5rem; grid-template-columns: none; grid-auto-flow: column;
  grid-auto-columns: minmax(0, 1fr); }
article { overflow: hidden; border: 1px solid var(--rule); border-radius: 8px;
  background: var(--card); }
.picture { position: relative; display: grid; }
.picture > * { grid-area: 1 / 1; width: 100%; display: block; }
.picture img { transition: opacity .15s; }
.picture:hover img:nth-of-type(2), .picture:focus img:nth-of-type(2) { opacity: 0; }
.picture rect { fill: none; stroke-width: 2.5px; vector-effect: non-scaling-stroke;
  paint-order: stroke; }
.said { padding: .6rem .9rem .8rem; }
.said h3 { margin: 0 0 .4rem; color: var(--soft); font-size: .8rem; font-weight: 500;
  overflow-wrap: anywhere; }
.said p { margin: .3rem 0; overflow-wrap: anywhere; }
.said .turn { display: grid; grid-template-columns: 3.6rem 1fr; align-items: baseline; }
.turn b { color: var(--soft); font-weight: 500; font-size: .8rem; }
.question span { color: var(--soft); }
small { color: var(--soft); white-space: nowrap; }
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
