"""A conversation as a card: its picture, and its turns with the model's tokens in colour.

<p> A dog </p> [SEG] runs.     "A dog [SEG] runs.", both in the colour of the mask
What is in region1 <bbox>?     "What is in region1 <bbox>?", both in the colour of the box
"""

from __future__ import annotations

import re

from glamm_jax.data.boxes import to_pixel
from glamm_jax.report.html_page import Box, Card, TextLine, TextMark
from glamm_jax.text.questions import SEGMENTATION_QUESTIONS
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, REGION, SEG
from glamm_jax.types import Example

_PHRASE = rf"{re.escape(PHRASE_START)}\s*(?P<phrase>.*?)\s*{re.escape(PHRASE_END)}"
_REGION = rf"(?P<name>region\d+\s*)?(?P<region>{re.escape(REGION)})"
TOKENS = re.compile(rf"{_PHRASE}|(?P<seg>{re.escape(SEG)})|{_REGION}", re.DOTALL)
NAMING = tuple(
    re.compile(re.escape(question).replace(re.escape("{name}"), "(.+)"))
    for question in SEGMENTATION_QUESTIONS
)
ASKS, ANSWERS = "user", "GLaMM"


def card_of(example: Example, note: str = "") -> Card:
    """The picture with its masks and boxes, the turns, and a note in small print below them.

    The i-th [SEG] has the i-th mask's colour, and its phrase, too; so has what a question asks to
    segment, and the i-th phrase of one that has several. Equal boxes share one colour.
    """
    masks = [] if example.masks is None else [mask > 0 for mask in example.masks]
    boxes = _boxes_xyxy_pixel(example)
    distinct = list(dict.fromkeys(boxes))
    painter = _Painter(len(masks), [len(masks) + distinct.index(box) for box in boxes])
    speakers = (ASKS, ANSWERS)
    lines = [painter.line(turn, speakers[i % 2]) for i, turn in enumerate(example.turns)]
    height, width = example.image.shape[:2]
    return Card(
        image=example.image,
        lines=[*lines, TextLine("", note=note)] if note else lines,
        masks=masks,
        boxes_xyxy_pixel=[None] * len(masks) + distinct,
        title=f"{example.id} ({width} x {height})",
    )


class _Painter:
    """Colours the turns of a conversation, one after the other."""

    def __init__(self, num_masks: int, colours_of_boxes: list[int]):
        self._num_masks, self._masks, self._boxes = num_masks, 0, iter(colours_of_boxes)

    def line(self, turn: str, speaker: str) -> TextLine:
        """A turn without the marks of its phrases, which are shown by colour."""
        text, done, marks, phrases = "", 0, [], self._masks
        for found in TOKENS.finditer(turn):
            text += turn[done : found.start()]
            done = found.end()
            if found["phrase"] is not None:
                marks.append(TextMark(len(text), len(text) + len(found["phrase"]), phrases))
                text, phrases = text + found["phrase"], phrases + 1
                continue
            if found["seg"]:
                colour, self._masks = self._masks, self._masks + 1
                phrases = max(phrases, self._masks)
            else:
                colour = next(self._boxes, 0)
            token, name = found["seg"] or found["region"], found["name"] or ""
            if name:
                marks.append(TextMark(len(text), len(text) + len(name.rstrip()), colour))
            text += name
            marks.append(TextMark(len(text), len(text) + len(token), colour, is_token=True))
            text += token
        text += turn[done:]
        marks = marks or self._asked_for(text)
        return TextLine(text, marks, speaker, is_question=speaker == ASKS)

    def _asked_for(self, question: str) -> list[TextMark]:
        """The name in a question to which the next [SEG] is the answer."""
        found = [naming.fullmatch(question) for naming in NAMING]
        spans = [each.span(1) for each in found if each and self._masks < self._num_masks]
        return [TextMark(*span, self._masks) for span in spans[:1]]


def _boxes_xyxy_pixel(example: Example) -> list[Box]:
    """One for each `<bbox>`, in pixels of the picture."""
    if example.boxes_xyxy_unit is None:
        return []
    scaled = to_pixel(example.boxes_xyxy_unit, *example.image.shape[:2])
    return [(x0, y0, x1, y1) for x0, y0, x1, y1 in scaled.round(2).tolist()]
