"""Conversations as cards: the image, and the turns with special tokens in colour.

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
QUESTION_PATTERNS = tuple(
    re.compile(re.escape(question).replace(re.escape("{name}"), "(.+)"))
    for question in SEGMENTATION_QUESTIONS
)
USER, ASSISTANT = "user", "GLaMM"


def conversation_card(example: Example, note: str = "") -> Card:
    """Return a card with the image, its masks and boxes, the turns, and a note below them.

    The i-th [SEG] and its phrase have the colour of the i-th mask. So has the name of what a
    question asks to segment, and the i-th phrase of a question with several. Equal boxes have the
    same colour.
    """
    masks = [] if example.masks is None else [mask > 0 for mask in example.masks]
    boxes: list[Box] = []
    if example.boxes_xyxy_unit is not None:
        scaled = to_pixel(example.boxes_xyxy_unit, *example.image.shape[:2])
        boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in scaled.round(2).tolist()]
    distinct = list(dict.fromkeys(boxes))
    marker = _TurnMarker(len(masks), [len(masks) + distinct.index(box) for box in boxes])
    lines = [
        marker.line(turn, ASSISTANT if i % 2 else USER) for i, turn in enumerate(example.turns)
    ]
    height, width = example.image.shape[:2]
    return Card(
        image=example.image,
        lines=[*lines, TextLine("", note=note)] if note else lines,
        masks=masks,
        boxes_xyxy_pixel=[None] * len(masks) + distinct,
        title=f"{example.id} ({width} x {height})",
    )


class _TurnMarker:
    """Marks the turns of a conversation one after the other, counting masks and boxes."""

    def __init__(self, num_masks: int, box_colours: list[int]):
        self._num_masks, self._next_mask, self._box_colours = num_masks, 0, iter(box_colours)

    def line(self, turn: str, speaker: str) -> TextLine:
        """Return the next turn; phrases are marked by colour, without their tokens."""
        text, position, marks, next_phrase = "", 0, [], self._next_mask
        for match in TOKENS.finditer(turn):
            text += turn[position : match.start()]
            position = match.end()
            if match["phrase"] is not None:
                marks.append(TextMark(len(text), len(text) + len(match["phrase"]), next_phrase))
                text, next_phrase = text + match["phrase"], next_phrase + 1
                continue
            if match["seg"]:
                colour, self._next_mask = self._next_mask, self._next_mask + 1
                next_phrase = max(next_phrase, self._next_mask)
            else:
                colour = next(self._box_colours, 0)
            token, name = match["seg"] or match["region"], match["name"] or ""
            if name:
                marks.append(TextMark(len(text), len(text) + len(name.rstrip()), colour))
            text += name
            marks.append(TextMark(len(text), len(text) + len(token), colour, is_token=True))
            text += token
        text += turn[position:]
        if not marks and self._next_mask < self._num_masks:
            # The name in a segmentation question has the colour of the next mask.
            matches = (pattern.fullmatch(text) for pattern in QUESTION_PATTERNS)
            spans = [match.span(1) for match in matches if match]
            marks = [TextMark(*span, self._next_mask) for span in spans[:1]]
        return TextLine(text, marks, speaker, is_question=speaker == USER)
