"""What a session of the app has: an image, boxes, questions and answers.

All classes are immutable, and nothing is shared between sessions.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.app.regions import Box, question_boxes
from glamm_jax.app.served_answer import ServedAnswer
from glamm_jax.data import rle
from glamm_jax.data.boxes import as_boxes, check_boxes, to_pixel
from glamm_jax.data.preprocess import MAX_IMAGE_BYTES, open_image
from glamm_jax.errors import GLaMMError
from glamm_jax.files import read_regular_file
from glamm_jax.inference.answer import Answer, Grounding
from glamm_jax.report.conversation_cards import QUESTION_PATTERNS
from glamm_jax.report.html_page import jpeg_uri
from glamm_jax.report.mask_outlines import Outline, outline_of_runs
from glamm_jax.text.special_tokens import SEG

MAX_SHOWN_SIDE = 1024  # pixels of the longer side of the image, and of the masks, on the page
MAX_PIXELS = 1 << 24  # of an image that is sent; a larger one is reduced
MAX_BOXES = 50
MIN_BOX_SIDE = 1.0  # pixels
# Files that are sent as they are; what is in others is sent as PNG.
_SENT_TYPES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}


class SessionError(GLaMMError):
    """Something cannot be done with an image, a box or a question. The message says what to do."""


@dataclass(frozen=True, eq=False)
class Picture:
    """An image.

    Attributes:
        pixels: upright, in its own size, or reduced to `MAX_PIXELS`.
        sent_uri: `data:` URI for the server.
        shown_uri: `data:` URI for the page, reduced.
        note: what was done to the file; "" as a rule.
    """

    pixels: UInt8[np.ndarray, "h w 3"] = field(repr=False)
    sent_uri: str = field(repr=False)
    shown_uri: str = field(repr=False)
    note: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


@dataclass(frozen=True)
class ShownMask:
    """The masks of one phrase, as the page shows them.

    Attributes:
        phrase: the phrase; for a mask without one, what the question asks to segment, or
            `[SEG] 1`.
        start: first character of the phrase in its text.
        end: character behind the last one; equal to `start`: the phrase is not in the text.
        colour: index of the colour in the palette.
        in_question: the text is the question.
        runs: COCO run lengths of the mask; None for a phrase without a mask.
        outline: of the mask.
        share: of the image that the mask covers, 0 to 1.
        score: confidence, 0 to 1; the highest one of several masks.
    """

    phrase: str
    start: int
    end: int
    colour: int
    in_question: bool
    runs: dict[str, Any] | None = field(default=None, repr=False)
    outline: Outline | None = field(default=None, repr=False)
    share: float = 0.0
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Exchange:
    """A question and its answer.

    Attributes:
        question: in raw form.
        boxes: one for each `<bbox>` of the question, in pixels.
        answer: of the server.
        masks: of question and answer, in the order of their colours.
    """

    question: str
    boxes: tuple[Box, ...]
    answer: ServedAnswer
    masks: tuple[ShownMask, ...]


@dataclass(frozen=True, eq=False)
class Conversation:
    """The state of a session."""

    picture: Picture | None = None
    boxes: tuple[Box, ...] = ()
    exchanges: tuple[Exchange, ...] = ()

    def with_box(self, box_xyxy_unit: Any) -> Conversation:
        """Return it with one more box.

        Raises:
            SessionError: there is no image, or there are too many boxes.
            BoxError: the box is not four numbers, has no area or is outside of the image.
        """
        if self.picture is None:
            raise SessionError("There is no image to draw a box on. Choose one first.")
        if len(self.boxes) >= MAX_BOXES:
            raise SessionError(f"There are {MAX_BOXES} boxes already. Remove one first.")
        height, width = self.picture.size
        unit = np.clip(as_boxes(box_xyxy_unit), 0, 1)
        if len(unit) != 1:
            raise SessionError("A box is four numbers.")
        [box] = check_boxes(to_pixel(unit, height, width).round(1), height, width)
        if min(box[2:] - box[:2]) < MIN_BOX_SIDE:
            raise SessionError("The box is smaller than a pixel. Draw a larger one.")
        x0, y0, x1, y1 = box.tolist()
        return replace(self, boxes=(*self.boxes, (x0, y0, x1, y1)))

    def without_box(self, index: int) -> Conversation:
        """Return it without a box; the boxes behind it get another number."""
        return replace(self, boxes=self.boxes[:index] + self.boxes[index + 1 :])

    def without_exchanges(self) -> Conversation:
        """Return it with its image and boxes only."""
        return replace(self, exchanges=())

    def request(self, question: str, options: dict[str, Any]) -> dict[str, Any]:
        """Return the body of the request that asks the question after the earlier ones.

        Args:
            question: in raw form.
            options: max_tokens, temperature, top_p, seed.

        Raises:
            SessionError: there is no image, or no question.
            RegionError: the question refers to a box that does not exist.
        """
        if self.picture is None:
            raise SessionError("There is no image. Upload one, or click an example.")
        if not question.strip():
            raise SessionError("The question is empty. Write one, or click a preset.")
        regions = [box for exchange in self.exchanges for box in exchange.boxes]
        regions += question_boxes(question, self.boxes)
        messages: list[dict[str, Any]] = []
        for exchange in self.exchanges:
            messages.append({"role": "user", "content": [_text_part(exchange.question)]})
            messages.append({"role": "assistant", "content": exchange.answer.raw})
        messages.append({"role": "user", "content": [_text_part(question)]})
        image = {"type": "image_url", "image_url": {"url": self.picture.sent_uri}}
        messages[0]["content"].insert(0, image)
        return {
            "messages": messages,
            "regions": [list(box) for box in regions],
            **options,
        }

    def with_answer(self, question: str, answer: ServedAnswer) -> Conversation:
        """Return it with the question and its answer."""
        boxes = question_boxes(question, self.boxes)
        groups = (
            *((item, True) for item in answer.prompt_groundings),
            *((item, False) for item in answer.groundings),
        )
        exchange = Exchange(
            question, boxes, answer, _shown_masks(groups, _segmented_name(question))
        )
        return replace(self, exchanges=(*self.exchanges, exchange))

    @property
    def last_masked(self) -> int | None:
        """Index of the last exchange with masks: those that the page shows at first."""
        has_masks = (any(mask.runs for mask in exchange.masks) for exchange in self.exchanges)
        return max((i for i, masked in enumerate(has_masks) if masked), default=None)

    def mask(self, index: int) -> tuple[UInt8[np.ndarray, "h w 3"], Bool[np.ndarray, "h w"]]:
        """Return the image and a mask of the exchange `last_masked`, by its index in it.

        Raises:
            SessionError: there is no such mask.
        """
        masks = () if self.last_masked is None else self.exchanges[self.last_masked].masks
        runs = masks[index].runs if 0 <= index < len(masks) else None
        if self.picture is None or runs is None:
            raise SessionError("Choose a mask of the last answer. Ask a question first.")
        return self.picture.pixels, rle.decode(runs)

    def last_answer(self) -> Answer:
        """Return the last answer, for files.

        Raises:
            SessionError: there is none.
        """
        if self.picture is None or not self.exchanges:
            raise SessionError("There is no answer yet. Ask a question first.")
        exchange = self.exchanges[-1]
        boxes = np.asarray(exchange.boxes, np.float64).reshape(-1, 4)
        return exchange.answer.to_answer(exchange.question, self.picture.pixels, boxes)


def open_picture(path: Path) -> Picture:
    """Read an image file of unknown origin.

    Raises:
        ImageError: it is not a readable image.
        FileNameError: it is too large.
    """
    data = read_regular_file(path, MAX_IMAGE_BYTES)
    # Named by hand: the path on this machine means nothing to the person.
    pixels = open_image(io.BytesIO(data))
    height, width = pixels.shape[:2]
    if height * width > MAX_PIXELS:
        scale = math.sqrt(MAX_PIXELS / (height * width))
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        reduced = Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS)
        note = f"The image of {width} x {height} pixels was reduced to {size[0]} x {size[1]}."
        return replace(picture_of(np.asarray(reduced)), note=note)
    media_type = next((kind for start, kind in _SENT_TYPES.items() if data.startswith(start)), "")
    return _picture(pixels, *((data, media_type) if media_type else (_png(pixels), "image/png")))


def picture_of(pixels: UInt8[np.ndarray, "h w 3"]) -> Picture:
    """Return an image that is in memory."""
    return _picture(pixels, _png(pixels), "image/png")


def _picture(pixels: UInt8[np.ndarray, "h w 3"], data: bytes, media_type: str) -> Picture:
    height, width = rle.size_within(
        (pixels.shape[0], pixels.shape[1]), (MAX_SHOWN_SIDE, MAX_SHOWN_SIDE)
    )
    small = Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS)
    sent = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    return Picture(pixels, sent, jpeg_uri(np.asarray(small)))


def _png(pixels: UInt8[np.ndarray, "h w 3"]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def _text_part(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _segmented_name(question: str) -> str:
    """Return what a segmentation question asks for, as its answer names nothing; else [SEG]."""
    matches = (pattern.fullmatch(question.strip()) for pattern in QUESTION_PATTERNS)
    return next((match[1] for match in matches if match), SEG)


def _shown_masks(groups: Sequence[tuple[Grounding, bool]], unnamed: str) -> tuple[ShownMask, ...]:
    """Join the masks of each phrase; they have one colour, as in `GroundedText.coloured_text`.

    Args:
        groups: the groundings, and whether they are the question's.
        unnamed: name of a mask without a phrase.
    """
    members: dict[tuple[Any, ...], list[Grounding]] = {}
    num_masks = {True: 0, False: 0}
    is_only = unnamed != SEG and sum(not item.phrase for item, _ in groups) == 1
    for item, in_question in groups:
        num_masks[in_question] += item.runs is not None
        name = item.phrase or (unnamed if is_only else f"{unnamed} {num_masks[in_question]}")
        members.setdefault((name, item.start, item.end, in_question), []).append(item)
    shown, colour = [], 0
    for (name, start, end, in_question), items in members.items():
        masks = [item for item in items if item.runs is not None]
        if not masks:
            shown.append(ShownMask(name, start, end, colour, in_question))
            continue
        runs = _union([item.runs for item in masks if item.runs is not None])
        height, width = runs["size"]
        outline = outline_of_runs(runs, MAX_SHOWN_SIDE)
        scores = [item.score for item in masks if item.score is not None]
        share, score = rle.area(runs) / max(1, height * width), max(scores, default=None)
        shown.append(ShownMask(name, start, end, colour, in_question, runs, outline, share, score))
        colour += 1
    return tuple(shown)


def _union(masks: list[dict[str, Any]]) -> dict[str, Any]:
    if len(masks) == 1:
        return masks[0]
    return rle.encode(np.logical_or.reduce([rle.decode(runs) for runs in masks]))
