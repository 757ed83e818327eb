"""Annotated images on web pages: an image with its objects, and captions in their colours.

    card = record_card(pixels, record, "dog.jpg")
    page.cards([card])

An object has the colour of its place in the record: objects first, then floating objects. A phrase
has the colour of its first object; the numbers behind it are the ids of all its objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import rle
from glamm_jax.data.rle import MaskError
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord, PhraseGrounding, Span
from glamm_jax.grand.roles import Pixels
from glamm_jax.report.html_page import Card, TextLine, TextMark


def object_colours(record: GrandRecord) -> dict[int, int]:
    """Return the colour of each object and floating object, by its id."""
    colours: dict[int, int] = {}
    for place, item in enumerate((*record.objects, *record.floating_objects)):
        colours.setdefault(item.id, place)
    return colours


def record_card(
    pixels: Pixels, record: GrandRecord, title: str, lines: Sequence[TextLine] | None = None
) -> Card:
    """Return a card with the objects of an image.

    Args:
        pixels: of the image.
        record: its annotations.
        title: of the card.
        lines: below the image; None: the grounded dense caption, or the first short caption.
    """
    if lines is None:
        captions = [record.dense_caption] if record.dense_caption else record.short_captions or ()
        lines = [grounded_line(caption, object_colours(record)) for caption in captions[:1]]
    return Card(
        pixels,
        lines,
        masks=[object_mask(item, pixels.shape[:2]) for item in record.objects],
        boxes_xyxy_pixel=[item.box for item in record.objects],
        title=title,
        box_labels=[str(item.id) for item in record.objects],
    )


def object_mask(item: GrandObject, size: tuple[int, int]) -> Bool[np.ndarray, "h w"] | None:
    """Return the mask of an object; None if it has none, or one of another size.

    Args:
        item: the object.
        size: height and width of the image.
    """
    return decoded_mask(item.mask, size)


def decoded_mask(
    runs: Mapping[str, object] | None, size: tuple[int, int]
) -> Bool[np.ndarray, "h w"] | None:
    """Return a mask; None if there is none, or it is damaged or of another size.

    Args:
        runs: COCO run lengths.
        size: height and width of the image.
    """
    if runs is None:
        return None
    try:
        mask = rle.decode(runs)
    except (MaskError, TypeError):
        return None
    return mask if mask.shape == tuple(size) else None


def grounded_line(caption: GrandCaption, colours: Mapping[int, int], speaker: str = "") -> TextLine:
    """Return a caption whose phrases have the colours of their objects, with the objects' ids.

    Phrases that are not in the caption, and those that overlap others, are named in a note.

    Args:
        caption: with its groundings.
        colours: by id, as `object_colours` returns them.
        speaker: name in front of the text.
    """
    text, marks, position, others = "", [], 0, []
    placed = [(phrase_span(caption.caption, item), item) for item in caption.groundings]
    placed.sort(key=lambda pair: pair[0] or (len(caption.caption), 0))
    for span, item in placed:
        ids = ", ".join(map(str, item.object_ids))
        if span is None or span[0] < position:
            others.append(f"{item.phrase} ({ids})")
            continue
        text += caption.caption[position : span[0]]
        first = colours.get(item.object_ids[0], 0) if item.object_ids else 0
        marks.append(TextMark(len(text), len(text) + span[1] - span[0], first))
        text += caption.caption[slice(*span)]
        for number in item.object_ids:
            text += "\u00a0"
            label = str(number)
            colour = colours.get(number, 0)
            marks.append(TextMark(len(text), len(text) + len(label), colour, is_token=True))
            text += label
        position = span[1]
    text += caption.caption[position:]
    note = f"also grounded: {'; '.join(others)}" if others else ""
    return TextLine(text, marks, speaker, note)


def numbers_line(ids: Sequence[int], colours: Mapping[int, int], text: str = "") -> TextLine:
    """Return ids of objects as marks, with a text behind them.

    Args:
        ids: of the objects.
        colours: by id.
        text: behind the ids.
    """
    line, marks = "", []
    for number in ids:
        label = str(number)
        marks.append(
            TextMark(len(line), len(line) + len(label), colours.get(number, 0), is_token=True)
        )
        line += label + " "
    return TextLine(line + text, marks)


def phrase_span(caption: str, item: PhraseGrounding) -> Span | None:
    """Return the characters of a phrase, also where the record has none or stale ones.

    None for a phrase that the caption does not have.
    """
    if item.span is not None and caption[slice(*item.span)].lower() == item.phrase.lower():
        return item.span
    start = caption.lower().find(item.phrase.lower()) if item.phrase else -1
    return None if start < 0 else (start, start + len(item.phrase))
