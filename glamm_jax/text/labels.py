"""Which tokens of a conversation are learned: the answers and the end mark behind each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from glamm_jax.text.chat import RELEASED_TEMPLATE, Template
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer

# <s> in front of every round, and the lone space piece behind "ASSISTANT: " (trap 31).
UNCOUNTED = 2


class LabelError(ValueError):
    """A conversation whose answers cannot be found again in its ids."""


class Span(NamedTuple):
    """A learned stretch of ids, `start` included and `stop` not: one answer with its end mark."""

    start: int
    stop: int


def answer_spans(
    conversation: str, tokenizer: Tokenizer, template: Template = RELEASED_TEMPLATE
) -> list[Span]:
    """Where the answers stand in the ids of a rendered conversation, one span per round.

    Each round is encoded again by itself, as the original does, and its instruction is shortened
    by two (trap 31). The last span ends where the encoded conversation ends.

    Raises: LabelError when a round does not hold exactly one answer.
    Source: dataset/dataset.py:216.
    """
    if template.second_separator is None:
        raise LabelError(f"a template of style {template.style!r} has no mark that ends an answer")
    spans, start = [], 1
    for round_text in conversation.split(template.second_separator):
        if not round_text:
            break
        parts = round_text.split(template.answer_mark)
        if len(parts) != 2:
            raise LabelError(
                f"a round holds {len(parts) - 1} times {template.answer_mark!r} instead of once: "
                f"{round_text!r}"
            )
        instruction = len(tokenizer.encode_with_images(parts[0] + template.answer_mark))
        length = len(tokenizer.encode_with_images(round_text))
        spans.append(Span(start + instruction - UNCOUNTED, start + length))
        start += length
    return spans


def label_ids(
    conversation: str,
    ids: Int[np.ndarray, "t"],
    tokenizer: Tokenizer,
    template: Template = RELEASED_TEMPLATE,
) -> Int[np.ndarray, "t"]:
    """Ids to learn, -100 elsewhere; `ids` may be padded on the right.

    Raises: LabelError when the rounds do not add up to the ids, which happens when the text holds
    an unknown token: its id is the padding's (trap 8).
    Differs: the original skips that check for rows of model_max_length ids or more.
    """
    spans = answer_spans(conversation, tokenizer, template)
    total = int((ids != tokenizer.pad).sum())
    end = spans[-1].stop if spans else 1
    if end != total:
        raise LabelError(
            f"the rounds of the conversation add up to {end} ids, the row holds {total}; does the "
            f"text contain {tokenizer.decode([tokenizer.unk])!r}? {conversation[-80:]!r}"
        )
    labels = np.full_like(ids, IGNORE_ID)
    for start, stop in spans:
        labels[start:stop] = ids[start:stop]
    return labels


class Encoded(NamedTuple):
    """A conversation as ids (one -200 per image) and the ids to learn (-100 elsewhere)."""

    ids: Int[np.ndarray, "t"]
    labels: Int[np.ndarray, "t"]


def encode_turns(
    turns: Sequence[str], tokenizer: Tokenizer, template: Template = RELEASED_TEMPLATE
) -> Encoded:
    """Turns that alternate, the user first, all answered, as ids and labels.

    Raises: LabelError or TemplateError when the turns cannot be rendered or found again.
    """
    if len(turns) % 2 or not all(turns):
        raise LabelError(f"{len(turns)} turns: every question needs an answer, and none is empty")
    conversation = template.render(turns)
    ids = np.asarray(tokenizer.encode_with_images(conversation), np.int32)
    return Encoded(ids, label_ids(conversation, ids, tokenizer, template))
