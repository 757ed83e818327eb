"""Prompts: a user's question as the token ids that the model reads, checked beforehand."""

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
    """A prompt that the model cannot answer. The message says why and what to change."""


@dataclass(frozen=True)
class Prompt:
    """A question as the model reads it.

    Attributes:
        text: the rendered conversation.
        ids: token ids of `text`; the image is the single id -200.
        num_regions: number of `<bbox>` in `text`.
        num_image_tokens: patches that replace the image's id.
        context: largest number of tokens of prompt and answer together.
    """

    text: str
    ids: Int[np.ndarray, "t"]
    num_regions: int
    num_image_tokens: int
    context: int

    @property
    def length(self) -> int:
        """Number of tokens of the prompt, the image's patches included."""
        images = int((self.ids == IMAGE_ID).sum())
        return len(self.ids) + images * (self.num_image_tokens - 1)

    @property
    def max_answer_tokens(self) -> int:
        """Number of tokens that the context leaves for the answer."""
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
    """Build the prompt of a question about an image.

    The image preamble is put in front of the first question of the conversation.

    Args:
        question: the question to answer.
        tokenizer: encodes the text.
        history: earlier (question, answer) pairs.
        num_regions: number of boxes of the complete conversation; the questions contain one
            `<bbox>` for each, in their order.
        num_image_tokens: patches of one image.
        context: largest number of tokens of prompt and answer together.
        template: chat template.

    Raises:
        PromptError: a question or an earlier answer is empty or contains an image or control
            token; an earlier answer contains `<bbox>`; the number of `<bbox>` is not the number of
            boxes; or the context leaves no token for an answer.

    Differs (quirk 16): the original drops surplus boxes and uses a single box for every `<bbox>`.
    """
    questions = [*(earlier for earlier, _ in history), question]
    for i, text in enumerate(questions):
        where = "the prompt" if i == len(history) else f"question {i + 1} of the history"
        if not text.strip():
            raise PromptError(f"{where} is empty. Ask something about the image.")
        _check_text(text, where, tokenizer)
    for i, (_, answer) in enumerate(history):
        where = f"answer {i + 1} of the history"
        if not answer.strip():
            raise PromptError(f"{where} is empty. Leave its turn out of the history.")
        if REGION in answer:
            raise PromptError(f"{where} contains {REGION}; only questions may refer to boxes.")
        _check_text(answer, where, tokenizer)
    num_region_tokens = sum(text.count(REGION) for text in questions)
    if num_region_tokens != num_regions:
        raise PromptError(
            f"number of {REGION} in the prompt: {num_region_tokens}; number of boxes: "
            f"{num_regions}. Write {REGION} once for each box, in their order, as in "
            f'"What is in region1 {REGION}?"'
        )
    turns: list[str | None] = []
    for earlier, answer in history:
        turns += [earlier, answer]
    turns += [question, None]
    turns[0] = with_preamble(questions[0])
    text = template.render(turns)
    ids = np.asarray(tokenizer.encode_with_images(text), np.int32)
    prompt = Prompt(text, ids, num_regions, num_image_tokens, context)
    if prompt.max_answer_tokens < 1:
        raise PromptError(
            f"the prompt is too long: {prompt.length} tokens ({num_image_tokens} of them for the "
            f"image) leave none for an answer in a context of {context}. Shorten the question "
            f"or the history by at least {1 - prompt.max_answer_tokens} tokens."
        )
    return prompt


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
