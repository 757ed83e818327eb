"""Questions as rows of a batch: checked and tokenized before, read and parsed after decoding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.boxes import check_boxes, to_unit
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.data.preprocess import ImageSource, clip_image, grounding_image
from glamm_jax.errors import GLaMMError
from glamm_jax.inference.answer import (
    Answer,
    FinishReason,
    ScoredMask,
    attach_masks,
    attach_masks_to_turns,
)
from glamm_jax.inference.sampling import Sampling
from glamm_jax.text.answer_parser import parse_answer, stable_text
from glamm_jax.text.prompt import Prompt, build_prompt
from glamm_jax.text.questions import MAX_NEW_TOKENS
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer


class QuestionError(GLaMMError):
    """A question asks for an answer of an impossible length."""


@dataclass(frozen=True, eq=False)
class Question:
    """A question about an image, with all that its answer depends on.

    Attributes:
        image: a path, bytes, an open file, a PIL image, or uint8[h, w, 3].
        prompt: the text. A `<p> phrase </p> [SEG]` in it is given a mask.
        regions: boxes x0 y0 x1 y1 in pixels of the upright image, one for each `<bbox>` of the
            history's questions and the prompt, in order.
        history: earlier (question, answer) pairs about the image, as `Answer.turn` returns them.
            Their [SEG]s are given masks as well, so a known answer put here is grounded (teacher
            forcing).
        max_tokens: longest answer, at least 1; less where the model's context ends.
        temperature: 0 decodes greedily; above, tokens are sampled.
        top_p: sample from the smallest set of tokens with this share of the probability.
        seed: of the sampling.

    Raises:
        QuestionError, SamplingError: a number is out of its range.
    """

    image: ImageSource
    prompt: str
    regions: Any = ()
    history: Sequence[tuple[str, str]] = ()
    max_tokens: int = MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise QuestionError(f"max_tokens is {self.max_tokens}; an answer has at least one")
        Sampling.create(1, self.temperature, self.top_p, self.seed)


@dataclass(eq=False)
class AnswerRow:
    """A question being answered, a row of a batch.

    Attributes:
        index: of the question.
        question: to be answered.
        image: of the question, upright.
        boxes: of the question, checked.
        prompt: of the question, tokenized.
        limit: tokens that the answer may have.
        ids: of the answer so far.
        finish: why the answer ended; None while it goes on.
        sent: text that was passed on.
    """

    index: int
    question: Question
    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "r 4"]
    prompt: Prompt
    limit: int
    ids: list[int] = field(default_factory=list)
    finish: FinishReason | None = None
    sent: str = ""

    @property
    def image_key(self) -> tuple[int, bytes]:
        """Equal for rows that can share the encoding of one image and its regions."""
        return id(self.image), self.boxes.tobytes()


def sampling_of(rows: Sequence[AnswerRow], padding: int) -> Sampling:
    """Return the settings of rows and of a number of rows of padding behind them."""
    # Padding samples nothing, so any question's settings serve.
    questions = [row.question for row in rows] + [rows[0].question] * padding
    return Sampling.create(
        len(questions),
        [question.temperature for question in questions],
        [question.top_p for question in questions],
        [question.seed for question in questions],
    )


class AnswerRows:
    """What turns questions into rows, and rows into answers; it needs no device.

    Args:
        config: of the model.
        tokenizer: of the model.
    """

    def __init__(self, config: GLaMMConfig, tokenizer: Tokenizer):
        self.config, self.tokenizer = config, tokenizer

    def row(self, index: int, question: Question, image: np.ndarray) -> AnswerRow:
        """Check a question whose image is open, and tokenize it.

        Raises:
            BoxError, PromptError: the question cannot be used.
        """
        boxes = check_boxes(question.regions, *image.shape[:2])
        prompt = build_prompt(
            question.prompt,
            self.tokenizer,
            history=question.history,
            num_regions=len(boxes),
            num_image_tokens=self.config.clip.num_patches,
            context=self.config.llama.max_positions,
        )
        limit = min(question.max_tokens, prompt.max_answer_tokens)
        return AnswerRow(index, question, image, boxes, prompt, limit)

    def sample(self, rows: Sequence[AnswerRow]) -> Sample:
        """Return the input of rows that share the encoding of one image and its regions."""
        image, boxes = rows[0].image, rows[0].boxes
        grounding = grounding_image(image, self.config.sam.image_size)
        ids = [row.prompt.ids for row in rows]
        return Sample(
            tuple(TokenizedConversation(x, np.full_like(x, IGNORE_ID)) for x in ids),
            image=clip_image(image, self.config.clip.image_size),
            grounding_image=grounding.pixels,
            resized_size=grounding.resized_size,
            original_size=grounding.original_size,
            boxes_xyxy_unit=to_unit(boxes, *image.shape[:2]) if len(boxes) else None,
        )

    def read(self, row: AnswerRow, ids: list[int], is_streamed: bool = True) -> str:
        """Take the tokens generated so far; return new text that later tokens cannot change.

        Args:
            row: whose tokens they are; its `ids`, `finish` and `sent` are updated.
            ids: all tokens of the answer so far.
            is_streamed: False returns no text, and saves decoding it.
        """
        row.ids = ids
        if row.ids[-1] == self.config.tokens.eos:
            row.finish = "end"
        elif len(row.ids) == row.limit:
            row.finish = "length"
        if not is_streamed:
            return ""
        decoded, _ = self.decode_ids(row.ids)
        text = parse_answer(decoded).text if row.finish else stable_text(decoded)
        piece, row.sent = text[len(row.sent) :], max(row.sent, text, key=len)
        return piece

    def decode_ids(self, ids: list[int]) -> tuple[str, tuple[str, ...]]:
        """Return the text of ids; ids that the tokenizer does not have are left out and named."""
        valid = [i for i in ids if i < self.tokenizer.size]
        problems = tuple(f"no token has the id {i}" for i in ids if i >= self.tokenizer.size)
        text = self.tokenizer.decode(valid, skip_control=True)
        return text.removeprefix(self.tokenizer.continuation), problems

    def answer(
        self, row: AnswerRow, prompt_masks: list[ScoredMask], answer_masks: list[ScoredMask]
    ) -> Answer:
        """Return the answer of a row that has finished.

        Args:
            row: the row.
            prompt_masks: of the [SEG]s of history and question, in order.
            answer_masks: of the [SEG]s of the answer, in order.
        """
        assert row.finish is not None
        turns = [turn for pair in row.question.history for turn in pair]
        *history, question = attach_masks_to_turns([*turns, row.question.prompt], prompt_masks)
        decoded, unknown_ids = self.decode_ids(row.ids)
        text, problems = attach_masks(decoded, answer_masks)
        return Answer(
            text.raw,
            text.text,
            text.groundings,
            question=question[0],
            history=tuple(turn for turn, _ in history),
            image=row.image,
            regions=row.boxes,
            finish=row.finish,
            problems=(*(f"in the question: {x}" for x in question[1]), *problems, *unknown_ids),
        )
