"""The answer of a model: text, its phrases, their masks; as JSON and as an image.

    "<p> A dog </p> [SEG] runs."  ->  text "A dog runs."
                                      Grounding("A dog", 0, 5, runs, score)

Masks are run lengths; `Grounding.mask` decodes one.

Malformed answers do not raise: they are parsed as far as possible, and `Answer.problems` lists what
is malformed.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.files import write_atomic
from glamm_jax.report.mask_overlay import ColouredText, MaskLayer, draw_overlay
from glamm_jax.storage import AnyPath, to_path
from glamm_jax.text.answer_parser import match_masks, parse_answer

FinishReason = Literal["end", "length", "stopped"]


class ScoredMask(NamedTuple):
    """The mask of one [SEG], and the confidence in it, see `Grounding.score`.

    Attributes:
        runs: COCO run lengths of the size of the image.
        score: in 0 to 1.
    """

    runs: dict[str, Any]
    score: float


@dataclass(frozen=True, eq=False)
class Grounding:
    """A phrase and one mask of it.

    Attributes:
        phrase: a part of the text; empty for a [SEG] without a phrase.
        start: index of its first character; of the [SEG] for an empty phrase.
        end: index after its last character.
        runs: COCO run lengths of the mask, of the size of the image; None for a phrase without a
            [SEG].
        score: the confidence in the mask, a probability in 0 to 1: the mean foreground probability
            of its pixels, times the geometric mean of the probabilities of the tokens of the phrase
            and its [SEG] (those of a question count as 1); 0 for an empty mask, None without one.
    """

    phrase: str
    start: int
    end: int
    runs: dict[str, Any] | None = field(default=None, repr=False)
    score: float | None = None

    @property
    def mask(self) -> Bool[np.ndarray, "h w"] | None:
        """The mask as an array of the size of the image, decoded at every access."""
        return None if self.runs is None else rle.decode(self.runs)

    def to_json(self) -> dict[str, Any]:
        """Return a dictionary for JSON: the mask as COCO RLE, its area and its box in pixels."""
        fields: dict[str, Any] = {"phrase": self.phrase, "start": self.start, "end": self.end}
        if self.runs is None:
            return fields | {"score": None, "mask": None, "area": 0, "box_xyxy_pixel": None}
        box = rle.box(self.runs)  # its end is exclusive
        return fields | {
            "score": self.score,
            "mask": self.runs,
            "area": rle.area(self.runs),
            "box_xyxy_pixel": None if box is None else [*box],
        }


@dataclass(frozen=True, eq=False)
class GroundedText:
    """A text with masks.

    Attributes:
        raw: the text as the model reads or writes it, with <p>, </p> and [SEG].
        text: the same text without them.
        groundings: one per [SEG], and one per phrase without a [SEG], in the order of the text.
    """

    raw: str
    text: str
    groundings: tuple[Grounding, ...]

    def coloured_text(self) -> ColouredText:
        """Return the text for `draw_overlay`; masks of one phrase are merged into one layer."""
        layers: dict[tuple[int, int, str], MaskLayer] = {}
        masked = ((item, item.mask) for item in self.groundings)
        present = [(item, mask) for item, mask in masked if mask is not None]
        for number, (item, mask) in enumerate(present, start=1):
            name = item.phrase or f"[SEG] {number}"
            key = (item.start, item.end, name)
            if key in layers:
                mask = mask | layers[key].mask
            layers[key] = MaskLayer(name, mask, item.start, item.end)
        return ColouredText(self.text, tuple(layers.values()))


@dataclass(frozen=True, eq=False)
class Answer(GroundedText):
    """The answer to a question about an image.

    Attributes:
        question: the question; a [SEG] in a question has a mask, too.
        history: the earlier turns, question and answer alternating, each with its masks.
        image: the image, upright; masks have its size.
        regions: boxes x0 y0 x1 y1 in pixels of the image.
        finish: "end": the model wrote its end token; "length": the token limit was reached;
            "stopped": the caller stopped it.
        problems: what is malformed in the answer or in the question.
    """

    question: GroundedText
    history: tuple[GroundedText, ...]
    image: UInt8[np.ndarray, "h w 3"] = field(repr=False)
    regions: Float[np.ndarray, "r 4"]
    finish: FinishReason
    problems: tuple[str, ...]

    @property
    def prompt_groundings(self) -> tuple[Grounding, ...]:
        """The phrases and masks of the question; positions refer to `question.text`."""
        return self.question.groundings

    @property
    def turn(self) -> tuple[str, str]:
        """(question, answer) in raw form, for the `history` of the next question."""
        return self.question.raw, self.raw

    def to_json(self) -> dict[str, Any]:
        """Return everything but the image and the history, ready for `json.dumps`."""
        return {
            "text": self.text,
            "raw": self.raw,
            "groundings": [item.to_json() for item in self.groundings],
            "question": self.question.text,
            "question_raw": self.question.raw,
            "prompt_groundings": [item.to_json() for item in self.prompt_groundings],
            "image_size": list(self.image.shape[:2]),
            "regions_xyxy_pixel": self.regions.tolist(),
            "finish": self.finish,
            "problems": list(self.problems),
        }

    def save(self, path: str | AnyPath) -> None:
        """Write the JSON atomically."""
        write_atomic(to_path(str(path)), json.dumps(self.to_json(), indent=1))

    def overlay(self) -> Image.Image:
        """Draw masks and boxes on the image; below it question and answer, phrases in colour."""
        texts = [self.question.coloured_text(), self.coloured_text()]
        return draw_overlay(self.image, texts, self.regions)

    def save_overlay(self, path: str | AnyPath) -> None:
        """Write the overlay as PNG, atomically."""
        png = io.BytesIO()
        self.overlay().save(png, format="PNG")
        write_atomic(to_path(str(path)), png.getvalue())


def attach_masks(raw: str, masks: Sequence[ScoredMask]) -> tuple[GroundedText, tuple[str, ...]]:
    """Parse a text and attach the masks of its [SEG]s, which are in order.

    Returns:
        The grounded text, and what is malformed in it.
    """
    parsed = parse_answer(raw)
    mask_indices, mismatches = match_masks(parsed, len(masks))

    spans: list[tuple[int, int, int | None]] = [
        (phrase.start, phrase.end, seg)
        for phrase in parsed.phrases
        for seg in phrase.segs or (None,)
    ]
    for seg in parsed.unassigned_segs:
        spans.append((parsed.seg_positions[seg], parsed.seg_positions[seg], seg))
    spans.sort(key=lambda span: (span[0], span[2] is None, span[2]))
    groundings = []
    for start, end, seg in spans:
        index = None if seg is None else mask_indices[seg]
        mask = (None, None) if index is None else masks[index]
        groundings.append(Grounding(parsed.text[start:end], start, end, *mask))
    problems = (*parsed.problems, *mismatches)
    return GroundedText(raw, parsed.text, tuple(groundings)), problems


def attach_masks_to_turns(
    turns: Sequence[str], masks: Sequence[ScoredMask]
) -> list[tuple[GroundedText, tuple[str, ...]]]:
    """Apply `attach_masks` to each turn of a prompt; a turn gets as many masks as it has [SEG]s."""
    grounded, first = [], 0
    for turn in turns:
        end = first + parse_answer(turn).num_segs
        grounded.append(attach_masks(turn, masks[first:end]))
        first = end
    return grounded
