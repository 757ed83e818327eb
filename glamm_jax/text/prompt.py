"""From a user's words to the ids that the model reads, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from glamm_jax.config import CLIPConfig, LlamaConfig
from glamm_jax.errors import GLaMMError
from glamm_jax.text.chat_template import RELEASED_TEMPLATE, ChatTemplate
from glamm_jax.text.questions import with_preamble
from glamm_jax.text.special_tokens import (
    IMAGE_END,
    IMAGE_ID,
    IMAGE_PLACEHOLDER,
    IMAGE_START,
    REGION,
)
from glamm_jax.text.tokenizer import Tokenizer


class PromptError(GLaMMError):
    """A prompt that the model cannot answer. Says what is wrong with it and what to do."""


@dataclass(frozen=True)
class Prompt:
    """A question ready for the model.

    ids: one -200 for the image. `length` counts what the model sees: the image's patches in its
    place. `room` is how many tokens the answer may have before the context ends.
    """

    text: str
    ids: Int[np.ndarray, "t"]
    num_regions: int
    num_image_tokens: int
    context: int

    @property
    def length(self) -> int:
        """Tokens that the model sees, the image's patches included."""
        images = int((self.ids == IMAGE_ID).sum())
        return len(self.ids) + images * (self.num_image_tokens - 1)

    @property
    def max_answer_tokens(self) -> int:
        """Tokens left for the answer."""
        return self.context - self.length


def build_prompt(
    question: str,
    tokenizer: Tokenizer,
    *,
    history: Sequence[tuple[str, str]] = (),
    num_regions: int = 0,
    num_image_tokens: int = CLIPConfig().num_patches,
    context: int = LlamaConfig().max_positions,
    template: ChatTemplate = RELEASED_TEMPLATE,
) -> Prompt:
    """The prompt of a question about an image, after earlier (question, answer) pairs if any.

    The image preamble is put in front of the first question. `num_regions` is the number of boxes
    that come with it; the text holds one `<bbox>` for each, in their order.

    Raises: PromptError when a question or an earlier answer is empty or names the image or control
    tokens itself, when an earlier answer holds `<bbox>`, when the questions do not have one
    `<bbox>` per box, or when no room is left for an answer.
    """
    questions = [*(past for past, _ in history), question]
    for i, text in enumerate(questions):
        where = "the prompt" if i == len(history) else f"question {i + 1} of the history"
        _check_question(text, where, tokenizer)
    for i, (_, answer) in enumerate(history):
        _check_answer(answer, f"answer {i + 1} of the history", tokenizer)
    _check_regions(sum(text.count(REGION) for text in questions), num_regions)
    turns: list[str | None] = []
    for past, answer in history:
        turns += [past, answer]
    turns += [question, None]
    turns[0] = with_preamble(questions[0])
    text = template.render(turns)
    ids = np.asarray(tokenizer.encode_with_images(text), np.int32)
    prompt = Prompt(text, ids, num_regions, num_image_tokens, context)
    if prompt.max_answer_tokens < 1:
        raise PromptError(
            f"the prompt is too long: {prompt.length} tokens ({num_image_tokens} of them for the "
            f"image) leave no room for an answer in a context of {context}. Shorten the question "
            f"or the history by at least {1 - prompt.max_answer_tokens} tokens."
        )
    return prompt


def _check_question(text: str, where: str, tokenizer: Tokenizer) -> None:
    if not text.strip():
        raise PromptError(f"{where} is empty. Ask something about the image.")
    _check_text(text, where, tokenizer)


def _check_answer(text: str, where: str, tokenizer: Tokenizer) -> None:
    if not text.strip():
        raise PromptError(f"{where} is empty. Leave its turn out of the history.")
    if REGION in text:
        raise PromptError(f"{where} contains {REGION}; only questions speak of regions by boxes.")
    _check_text(text, where, tokenizer)


def _check_text(text: str, where: str, tokenizer: Tokenizer) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(f"{where} is not valid Unicode at character {error.start}") from error
    for token in (IMAGE_PLACEHOLDER, IMAGE_START, IMAGE_END):
        if token in text:
            raise PromptError(
                f"{where} contains {token} at character {text.index(token)}; the image is put in "
                "front of the question for you, so leave the token out."
            )
    for token in tokenizer.control:
        if token in text:
            raise PromptError(
                f"{where} contains the control token {token} at character {text.index(token)}; "
                "it would end or mask the text, so leave it out."
            )


def _check_regions(num_tokens: int, num_regions: int) -> None:
    """Differs: the original drops surplus boxes, and a single box serves all tokens (trap 16)."""
    if num_tokens == num_regions:
        return
    raise PromptError(
        f"number of {REGION} in the prompt: {num_tokens}; number of boxes: {num_regions}. Write "
        f'{REGION} once for each box, in their order, as in "What is in region1 {REGION}?"'
    )
