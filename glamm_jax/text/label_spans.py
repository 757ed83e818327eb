"""Conversations as token ids and labels: the answers and their end marks are learned.

turns    ("What is this?", "A dog.")
string   "<system line> USER: What is this? ASSISTANT: A dog.</s>"
ids      <s> ... USER : What is this ? ASSISTANT :  A dog . </s>
labels                                              A dog . </s>
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from glamm_jax.errors import GLaMMError
from glamm_jax.text.chat_template import RELEASED_TEMPLATE, ChatTemplate
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import Tokenizer


class LabelError(GLaMMError):
    """A conversation that has no valid labels. The message says why."""


class EncodedTurns(NamedTuple):
    """A conversation as token ids and labels.

    Attributes:
        ids: token ids; each image is the single id -200.
        labels: the ids to learn, -100 elsewhere.
    """

    ids: Int[np.ndarray, "t"]
    labels: Int[np.ndarray, "t"]


def encode_turns(
    turns: Sequence[str], tokenizer: Tokenizer, template: ChatTemplate = RELEASED_TEMPLATE
) -> EncodedTurns:
    """Encode a conversation and label its answers.

    Questions and answers are encoded separately, so the ids of an answer are known without a
    search. The result equals the encoding of the rendered string: every tokenizer cuts at the space
    in front of an answer. sentencepiece puts that space in front of every text; for byte-level BPE
    it is a part of the answer (`Tokenizer.continuation`).

    Args:
        turns: alternating, the user's first, every question with its answer.
        tokenizer: encodes the text.
        template: a template of style "two".

    Raises:
        LabelError: an answer is missing, a turn contains a control token or a character that the
            tokenizer does not know, or the template has no mark that ends an answer. Quirk 8: the
            id of an unknown character is the padding id.

    Source: dataset/dataset.py:216. Differs (quirk 31): the original searches for the answers in the
    string, counts their tokens, and fails if a turn contains a mark of the template.
    """
    if not turns or len(turns) % 2 or not all(turns):
        raise LabelError(f"{len(turns)} turns: every question needs an answer, and none is empty")
    if template.style != "two":
        raise LabelError(f"a template of style {template.style!r} has no mark that ends an answer")
    for turn in turns:
        control = [token for token in tokenizer.control if token in turn]
        if control:
            raise LabelError(f"a turn contains the control token {control[0]!r}: {turn[:80]!r}")
    ids: list[int] = []
    labels: list[int] = []
    for question_text, answer_text in template.rounds(turns):
        question = tokenizer.encode_with_images(question_text)
        question = question[tokenizer.add_bos :] if ids else question
        answer = tokenizer.encode(tokenizer.continuation + answer_text, add_special=False)
        ids += question + answer
        labels += [IGNORE_ID] * len(question) + answer
    if tokenizer.pad in ids:
        raise LabelError(f"the text holds a character that the tokenizer does not know: {turns}")
    return EncodedTurns(np.array(ids, np.int32), np.array(labels, np.int32))
