"""Turns as ids, and which of them are learned: the answers and the end mark behind each.

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
    """A conversation that cannot be learned from. Says what is wrong with it."""


class EncodedTurns(NamedTuple):
    """A conversation as ids (one -200 per image) and the ids to learn (-100 elsewhere)."""

    ids: Int[np.ndarray, "t"]
    labels: Int[np.ndarray, "t"]


def encode_turns(
    turns: Sequence[str], tokenizer: Tokenizer, template: ChatTemplate = RELEASED_TEMPLATE
) -> EncodedTurns:
    """Turns that alternate, the user first, all answered, as ids and labels.

    Questions and answers are encoded one by one, so it is known which ids are an answer's. The ids
    are those of the rendered string: the space in front of an answer, at which sentencepiece always
    cuts, is the one that it puts in front of every text.

    Raises: LabelError when an answer is missing, a turn holds a control token or one that is
    unknown (its id is the padding's, trap 8), or the template has no mark that ends an answer.
    Source: dataset/dataset.py:216. Differs: the original finds the answers again in the string,
    counts their tokens, and fails where a turn holds a mark of the template (trap 31).
    """
    if not turns or len(turns) % 2 or not all(turns):
        raise LabelError(f"{len(turns)} turns: every question needs an answer, and none is empty")
    if template.style != "two":
        raise LabelError(f"a template of style {template.style!r} has no mark that ends an answer")
    for turn in turns:
        _refuse_control_tokens(turn, tokenizer)
    ids: list[int] = []
    labels: list[int] = []
    for asked, told in template.rounds(turns):
        question = tokenizer.encode_with_images(asked)
        question = question[tokenizer.add_bos :] if ids else question
        answer = tokenizer.encode(told, add_special=False)
        ids += question + answer
        labels += [IGNORE_ID] * len(question) + answer
    if tokenizer.pad in ids:
        raise LabelError(f"the text holds a character that the tokenizer does not know: {turns}")
    return EncodedTurns(np.array(ids, np.int32), np.array(labels, np.int32))


def _refuse_control_tokens(turn: str, tokenizer: Tokenizer) -> None:
    found = [token for token in tokenizer.control if token in turn]
    if found:
        raise LabelError(f"a turn contains the control token {found[0]!r}: {turn[:80]!r}")
