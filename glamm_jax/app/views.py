"""HTML of the two parts of the page that Gradio has no component for: the image and the transcript.

Every phrase and every mask has an id, `EXCHANGE-INDEX`. `page.js` connects elements of the same
id: a phrase under the pointer lights its mask, a click shows or hides it. All text is escaped:
questions, answers and phrases are not trusted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from glamm_jax.app.conversation import MAX_SHOWN_SIDE, Conversation, Exchange, ShownMask
from glamm_jax.app.phrase_spans import pieces
from glamm_jax.data import rle
from glamm_jax.report.html_page import escape, hex_colour
from glamm_jax.report.mask_overlay import colour_of, text_colour_on
from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.text.special_tokens import REGION

LABEL_SHARE = 24  # the longer side of the image is so many times as long as a label is high
_REGION = re.compile(re.escape(escape(REGION)))
NO_IMAGE = "Drop an image on the field above, or click an example."
NO_QUESTIONS = (
    "Ask something about the image. A phrase of the answer has the colour of its mask: point at it "
    "to light the mask, click it to hide the mask or to show it again."
)


@dataclass(frozen=True)
class Pending:
    """A question whose answer is not complete.

    Attributes:
        question: in raw form.
        text: of the answer so far.
        status: what happens at the moment; "" after an error.
        error: why there will be no answer.
    """

    question: str
    text: str = ""
    status: str = ""
    error: str = ""


def stage_html(conversation: Conversation) -> str:
    """Return the image with its masks and boxes, and lists of both."""
    picture = conversation.picture
    if picture is None:
        return f'<div class="glamm-stage is-empty"><p>{NO_IMAGE}</p></div>'
    height, width = rle.size_within(picture.size, (MAX_SHOWN_SIDE, MAX_SHOWN_SIDE))
    masks = "".join(
        _mask_path(mask, _mask_id(number, index), (height, width))
        for number, exchange in enumerate(conversation.exchanges)
        for index, mask in enumerate(exchange.masks)
        if mask.outline is not None
    )
    scale = width / picture.size[1]
    boxes = "".join(
        _box(number, [side * scale for side in box], max(height, width) / LABEL_SHARE)
        for number, box in enumerate(conversation.boxes, start=1)
    )
    svg = (
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f'{masks}{boxes}<rect class="draft" width="0" height="0"/></svg>'
    )
    alt = f"The image, {picture.size[1]} x {picture.size[0]} pixels"
    note = f'<p class="hint">{escape(picture.note)}</p>' if picture.note else ""
    return (
        f'<div class="glamm-stage" data-exchanges="{len(conversation.exchanges)}" '
        f'data-shown="{conversation.last_masked}">'
        f'<div class="picture" style="--aspect: {width / height:.4f}">'
        f'<img src="{picture.shown_uri}" alt="{alt}" draggable="false">{svg}</div>'
        f"{note}{_box_list(conversation)}{_mask_list(conversation)}</div>"
    )


def transcript_html(conversation: Conversation, pending: Pending | None = None) -> str:
    """Return the questions and answers, then a question that is not answered yet."""
    parts = [_exchange(number, item) for number, item in enumerate(conversation.exchanges)]
    if pending is not None:
        parts.append(_pending(pending))
    if not parts:
        parts.append(f'<p class="hint">{escape(NO_QUESTIONS)}</p>')
    # Screen readers read an answer when it is complete, not again with each of its words.
    busy = "true" if pending is not None and pending.status else "false"
    return (
        f'<div class="glamm-transcript" role="log" aria-live="polite" aria-busy="{busy}">'
        f"{''.join(parts)}</div>"
    )


def _exchange(number: int, exchange: Exchange) -> str:
    asked = [(i, mask) for i, mask in enumerate(exchange.masks) if mask.in_question]
    answered = [(i, mask) for i, mask in enumerate(exchange.masks) if not mask.in_question]
    # Positions refer to the clean text; it has no <bbox>.
    question = parse_answer(exchange.question).text if asked else exchange.question
    notes = [f"Note: {problem}" for problem in exchange.answer.problems]
    if exchange.answer.finish == "length":
        notes.append("Note: the answer ends at the largest number of tokens (Settings).")
    small = "".join(f'<p class="note">{escape(note)}</p>' for note in notes)
    turns = _turn("You", _marked(number, question, asked), "question")
    turns += _turn("GLaMM", _marked(number, exchange.answer.text, answered), "answer")
    return f'<article class="exchange">{turns}{small}</article>'


def _pending(pending: Pending) -> str:
    status = f' <span class="status">{escape(pending.status)}</span>' if pending.status else ""
    parts = [_turn("You", _marked(-1, pending.question, []), "question")]
    if pending.text or pending.status:
        parts.append(_turn("GLaMM", escape(pending.text) + status, "answer"))
    if pending.error:
        parts.append(f'<p class="error" role="alert">{escape(pending.error)}</p>')
    return f'<article class="exchange pending">{"".join(parts)}</article>'


def _turn(speaker: str, content: str, css_class: str) -> str:
    return f'<p class="{css_class}"><b>{speaker}</b><span>{content}</span></p>'


def _marked(number: int, text: str, masks: Sequence[tuple[int, ShownMask]]) -> str:
    """Return a text whose phrases can be pointed at and pressed, with those that it lacks."""
    parts = []
    cut = pieces(text, [(mask.start, mask.end) for _, mask in masks])
    for piece, after in zip_longest(cut, cut[1:]):
        if piece.phrase is None:
            parts.append(_REGION.sub('<span class="token">box</span>', escape(piece.text)))
            continue
        index, mask = masks[piece.phrase]
        # A mask without a phrase: its name is set off from the words around it.
        space = " " if after and after.text[:1].isalnum() else ""
        name = piece.text or f" {mask.phrase}{space}"
        parts.append(_phrase(_mask_id(number, index), mask, name, piece.is_first))
    return "".join(parts)


def _phrase(mask_id: str, mask: ShownMask, text: str, is_first: bool) -> str:
    if mask.outline is None:
        return f'<span class="phrase no-mask" title="no mask">{escape(text)}</span>'
    # A phrase in several pieces is one stop of the Tab key.
    button = ' role="button" tabindex="0" aria-pressed="true"' if is_first else ""
    return (
        f'<span class="phrase" data-mask="{mask_id}" style="{_colours(mask.colour)}"{button} '
        f'title="{_summary(mask)}">{escape(text)}</span>'
    )


def _mask_path(mask: ShownMask, mask_id: str, shown_size: tuple[int, int]) -> str:
    assert mask.outline is not None
    scale_y, scale_x = (
        shown / side for shown, side in zip(shown_size, mask.outline.size, strict=True)
    )
    transform = "" if scale_x == scale_y == 1 else f' transform="scale({scale_x:g} {scale_y:g})"'
    return (
        f'<path class="mask" data-mask="{mask_id}" style="{_colours(mask.colour)}"{transform} '
        f'd="{mask.outline.path}"><title>{escape(mask.phrase)}</title></path>'
    )


def _box(number: int, box: Sequence[float], label: float) -> str:
    x0, y0, x1, y1 = (round(side, 2) for side in box)
    place = f'x="{x0}" y="{y0}" width="{x1 - x0:.2f}" height="{y1 - y0:.2f}"'
    width = label * (0.6 * len(str(number)) + 0.4)
    return (
        f'<g class="box"><rect class="outer" {place}/><rect class="inner" {place}/>'
        f'<rect class="label" x="{x0}" y="{y0}" width="{width:.2f}" height="{1.1 * label:.2f}"/>'
        f'<text x="{x0 + width / 2:.2f}" y="{y0 + 0.87 * label:.2f}" font-size="{0.9 * label:.2f}" '
        f'text-anchor="middle">{number}</text></g>'
    )


def _box_list(conversation: Conversation) -> str:
    if not conversation.boxes:
        return '<p class="hint">Drag on the image to draw a box, and ask about it.</p>'
    items = "".join(
        f"<li><span>region{i + 1}: {', '.join(f'{side:g}' for side in box)}</span>"
        f'<button type="button" class="remove" data-box="{i}" aria-label="Remove region{i + 1}">'
        "&times;</button></li>"
        for i, box in enumerate(conversation.boxes)
    )
    return f'<h3>Boxes</h3><ul class="boxes">{items}</ul>'


def _mask_list(conversation: Conversation) -> str:
    """Return a list of the masks that are shown at first."""
    number = conversation.last_masked
    if number is None:
        return ""
    items = "".join(
        f'<li><button type="button" class="mask-button" data-mask="{_mask_id(number, index)}" '
        f'style="{_colours(mask.colour)}" aria-pressed="true"><i></i><span>{escape(mask.phrase)}'
        f"</span><small>{_summary(mask)}</small></button></li>"
        for index, mask in enumerate(conversation.exchanges[number].masks)
        if mask.outline is not None
    )
    return f'<h3>Masks</h3><ul class="masks">{items}</ul>'


def mask_choices(conversation: Conversation) -> Iterator[tuple[str, int]]:
    """Yield the masks of the last answer with masks, for a list of choices: name and index."""
    if conversation.last_masked is not None:
        for index, mask in enumerate(conversation.exchanges[conversation.last_masked].masks):
            if mask.outline is not None:
                yield f"{index + 1}: {mask.phrase}", index


def _mask_id(exchange: int, index: int) -> str:
    return f"{exchange}-{index}"


def _summary(mask: ShownMask) -> str:
    score = "" if mask.score is None else f", score {mask.score:.2f}"
    return f"{mask.share:.1%} of the image{score}"


def _colours(colour: int) -> str:
    ink = "#{:02x}{:02x}{:02x}".format(*text_colour_on(colour_of(colour)))
    return f"--c:{hex_colour(colour)};--ink:{ink}"
