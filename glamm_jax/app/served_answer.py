"""The answer of the API server: checked, with its masks as run lengths.

What the server sends is checked as a file of unknown origin is: positions in the text, sizes, run
lengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from glamm_jax.app.server_client import Completion, ServerError
from glamm_jax.data import rle
from glamm_jax.inference.answer import Answer, FinishReason, GroundedText, Grounding
from glamm_jax.text.answer_parser import parse_answer

MAX_GROUNDINGS = 500
MAX_TEXT = 200_000  # characters of an answer
FINISH_REASONS: Mapping[str, FinishReason] = {"stop": "end", "length": "length"}


@dataclass(frozen=True)
class ServedAnswer:
    """An answer as the server sends it.

    Attributes:
        text: clean text.
        raw: the text as the model wrote it.
        groundings: of the answer.
        prompt_groundings: of the question; positions refer to its clean text.
        problems: what is malformed in the answer or in the question.
        finish: as in `Answer`.
    """

    text: str
    raw: str
    groundings: tuple[Grounding, ...]
    prompt_groundings: tuple[Grounding, ...]
    problems: tuple[str, ...]
    finish: FinishReason

    def to_answer(
        self,
        question: str,
        image: UInt8[np.ndarray, "h w 3"],
        regions: Float[np.ndarray, "r 4"],
    ) -> Answer:
        """Return it as `Assistant.chat` does.

        Args:
            question: in raw form.
            image: that was asked about.
            regions: boxes of the question in pixels.
        """
        text = parse_answer(question).text
        return Answer(
            raw=self.raw,
            text=self.text,
            groundings=self.groundings,
            question=GroundedText(question, text, self.prompt_groundings),
            history=(),
            image=image,
            regions=regions,
            finish=self.finish,
            problems=self.problems,
        )


def read_answer(
    text: str, completion: Completion, question: str, image_size: tuple[int, int]
) -> ServedAnswer:
    """Check a completion.

    Args:
        text: the pieces of text, joined.
        completion: the end of the stream.
        question: in raw form.
        image_size: height and width of the image.

    Raises:
        ServerError: something is missing, of another type, outside of the text, or no mask of the
            image.
    """
    fields = completion.fields
    if len(text) > MAX_TEXT:
        raise ServerError(f"The server sent {len(text)} characters; at most {MAX_TEXT} are shown.")
    raw, problems = fields.get("raw", text), fields.get("problems") or []
    if not isinstance(raw, str) or not isinstance(problems, list):
        raise ServerError("The server's answer has no valid `raw` or `problems`.")
    asked = parse_answer(question).text
    return ServedAnswer(
        text=text,
        raw=raw,
        groundings=_groundings(fields.get("groundings"), text, image_size),
        prompt_groundings=_groundings(fields.get("prompt_groundings"), asked, image_size),
        problems=tuple(map(str, problems)),
        finish=FINISH_REASONS.get(completion.finish_reason, "stopped"),
    )


def _groundings(items: Any, text: str, image_size: tuple[int, int]) -> tuple[Grounding, ...]:
    items = [] if items is None else items
    if not isinstance(items, Sequence) or len(items) > MAX_GROUNDINGS:
        raise ServerError(f"The server's `groundings` are no list of at most {MAX_GROUNDINGS}.")
    return tuple(_grounding(item, text, image_size) for item in items)


def _grounding(item: Any, text: str, image_size: tuple[int, int]) -> Grounding:
    try:
        phrase, start, end = str(item["phrase"]), int(item["start"]), int(item["end"])
        runs, score = item.get("segmentation"), item.get("score")
        if not 0 <= start <= end <= len(text):
            raise ServerError(
                f"The server's phrase {phrase[:80]!r} is at {start} to {end} of a text of "
                f"{len(text)} characters."
            )
        score = None if score is None else float(score)
        if score is not None and not math.isfinite(score):
            raise ServerError(f"The score of the server's phrase {phrase[:80]!r} is {score}.")
        if runs is not None:
            runs = {"size": [int(side) for side in runs["size"]], "counts": runs["counts"]}
            if tuple(runs["size"]) != image_size:
                raise ServerError(
                    f"The mask of {phrase[:80]!r} has {runs['size']} pixels, the image "
                    f"{list(image_size)}."
                )
            rle.check(runs)
        return Grounding(phrase, start, end, runs, score)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        if isinstance(error, ServerError):
            raise
        raise ServerError(f"The server sent a malformed grounding: {error}") from error
