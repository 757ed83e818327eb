"""What comes back from a chat: text, its phrases, their masks; as JSON and as a picture.

    "<p> A dog </p> [SEG] runs."  ->  text "A dog runs."
                                      Grounding("A dog", 0, 5, mask, score)

Nothing here fails on what a model writes: it is read as far as it goes, and `Answer.problems` says
what was wrong with it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.files import write_atomic
from glamm_jax.report.mask_overlay import ColouredText, MaskLayer, draw_overlay
from glamm_jax.text.answer_parser import match_masks, parse_answer

FinishReason = Literal["end", "length", "stopped"]


class ScoredMask(NamedTuple):
    """The mask of one [SEG] at the picture's size, and the decoder's own estimate of its IoU."""

    mask: Bool[np.ndarray, "h w"]
    score: float


@dataclass(frozen=True, eq=False)
class Grounding:
    """A phrase and one mask of it.

    start, end: its place in the text, end not included. A [SEG] without a phrase has an empty
    phrase at the place where it stood; a phrase without a [SEG] has neither mask nor score.
    """

    phrase: str
    start: int
    end: int
    mask: Bool[np.ndarray, "h w"] | None = field(default=None, repr=False)
    score: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Fields for JSON: the mask as COCO run lengths, its area and its box in pixels."""
        shown: dict[str, Any] = {"phrase": self.phrase, "start": self.start, "end": self.end}
        if self.mask is None:
            return shown | {"score": None, "mask": None, "area": 0, "box_xyxy_pixel": None}
        runs, area = rle.encode(self.mask), int(self.mask.sum())
        box = _bounds(self.mask) if area else None
        return shown | {"score": self.score, "mask": runs, "area": area, "box_xyxy_pixel": box}


@dataclass(frozen=True, eq=False)
class GroundedText:
    """Words with masks.

    raw: as the model writes or reads it, with <p>, </p> and [SEG]. text: the same without them.
    groundings: one a [SEG], and one a phrase without [SEG], in the order of the text.
    """

    raw: str
    text: str
    groundings: tuple[Grounding, ...]

    def coloured_text(self) -> ColouredText:
        """For the painter: masks of one phrase become one layer, so that they share a colour."""
        layers: dict[tuple[int, int, str], MaskLayer] = {}
        seen = [(each, each.mask) for each in self.groundings if each.mask is not None]
        for number, (each, mask) in enumerate(seen, start=1):
            name = each.phrase or f"[SEG] {number}"
            key = (each.start, each.end, name)
            if key in layers:
                mask = mask | layers[key].mask
            layers[key] = MaskLayer(name, mask, each.start, each.end)
        return ColouredText(self.text, tuple(layers.values()))


@dataclass(frozen=True, eq=False)
class Answer(GroundedText):
    """What a model said about a picture.

    question: what it was asked; a [SEG] in a question gives a mask, too. history: the earlier
        turns, question and answer by turns, each with the masks of its own [SEG]s.
    image: the picture, upright; masks have its size. regions: boxes x0 y0 x1 y1 in its pixels.
    finish: "end" when the model ended by itself, "length" when its tokens were used up, "stopped"
        when the listener had heard enough.
    problems: what is malformed in the answer or the question, in words.
    """

    question: GroundedText
    history: tuple[GroundedText, ...]
    image: UInt8[np.ndarray, "h w 3"] = field(repr=False)
    regions: Float[np.ndarray, "r 4"]
    finish: FinishReason
    problems: tuple[str, ...]

    @property
    def prompt_groundings(self) -> tuple[Grounding, ...]:
        """The phrases and masks of the question; places are those in `question.text`."""
        return self.question.groundings

    @property
    def turn(self) -> tuple[str, str]:
        """(question, answer) as the model saw them, for the `history` of the next question."""
        return self.question.raw, self.raw

    def to_json(self) -> dict[str, Any]:
        """Everything but the picture and the history, ready for `json.dumps`."""
        return {
            "text": self.text,
            "raw": self.raw,
            "groundings": [each.to_json() for each in self.groundings],
            "question": self.question.text,
            "question_raw": self.question.raw,
            "prompt_groundings": [each.to_json() for each in self.prompt_groundings],
            "image_size": list(self.image.shape[:2]),
            "regions_xyxy_pixel": self.regions.tolist(),
            "finish": self.finish,
            "problems": list(self.problems),
        }

    def save(self, path: str | Path) -> None:
        """Write the JSON; `path` is never seen half written."""
        write_atomic(Path(path), json.dumps(self.to_json(), indent=1))

    def overlay(self) -> Image.Image:
        """The image with masks and boxes, below it question and answer, phrases in colour."""
        return draw_overlay(self.image, [self.question.coloured_text(), self.coloured_text()], self.regions)

    def save_overlay(self, path: str | Path) -> None:
        """Write the picture as PNG; `path` is never seen half written."""
        png = io.BytesIO()
        self.overlay().save(png, format="PNG")
        write_atomic(Path(path), png.getvalue())


def attach_masks(raw: str, masks: Sequence[ScoredMask]) -> tuple[GroundedText, tuple[str, ...]]:
    """A text whose [SEG]s have these masks, in their order, and what is malformed in it."""
    parsed = parse_answer(raw)
    places, missing = match_masks(parsed, len(masks))

    found: list[tuple[int, int, int | None]] = [
        (phrase.start, phrase.end, seg)
        for phrase in parsed.phrases
        for seg in phrase.segs or (None,)
    ]
    for seg in parsed.unassigned_segs:
        found.append((parsed.seg_positions[seg], parsed.seg_positions[seg], seg))
    found.sort(key=lambda each: (each[0], each[2] is None, each[2]))
    groundings = []
    for start, end, seg in found:
        place = None if seg is None else places[seg]
        mask = (None, None) if place is None else masks[place]
        groundings.append(Grounding(parsed.text[start:end], start, end, *mask))
    return GroundedText(raw, parsed.text, tuple(groundings)), (*parsed.problems, *missing)


def attach_masks_to_turns(
    turns: Sequence[str], masks: Sequence[ScoredMask]
) -> list[tuple[GroundedText, tuple[str, ...]]]:
    """`ground` for each turn of a prompt: every turn takes as many masks as it has [SEG]s."""
    grounded, first = [], 0
    for turn in turns:
        end = first + parse_answer(turn).num_segs
        grounded.append(attach_masks(turn, masks[first:end]))
        first = end
    return grounded


def _bounds(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """The smallest box around the mask: x0, y0 inside, x1, y1 just outside."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
