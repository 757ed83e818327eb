"""Labels are the answers with their end marks, exactly as the original masks them."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from glamm_jax.text.chat_template import RELEASED_TEMPLATE, chat_template
from glamm_jax.text.label_spans import LabelError, encode_turns
from glamm_jax.text.questions import IMAGE_TOKENS, SEGMENTATION_ANSWERS, with_preamble
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import load_tokenizer

WORDS = (
    "dog",
    " ",
    "  ",
    "\n",
    "<p>",
    "</p>",
    "[SEG]",
    "<bbox>",
    ".",
    "Aa",
    "USER:",
    "\u6771",
    "9",
)


@pytest.fixture(scope="module")
def tokenizer(goldens):
    return load_tokenizer(goldens / "tokenizer")


def turns_of(conversation):
    """Split a recorded string at the marks of the template."""
    rounds = conversation.partition(" USER: ")[2].removesuffix("</s>").split("</s>USER: ")
    return [turn for text in rounds for turn in text.split(" ASSISTANT: ")]


def test_ids_and_labels_of_every_recorded_batch_are_the_recorded_ones(goldens, tokenizer):
    path = goldens / "conversations" / "collate_golden.json"
    entries = json.loads(path.read_text("utf-8"))["entries"]
    for entry in entries:
        for row, conversation in enumerate(entry["conversations"]):
            turns = turns_of(conversation.replace("<image>", IMAGE_TOKENS))
            encoded = encode_turns(turns, tokenizer)
            width = len(entry["input_ids"][row])  # padded, or truncated to the context: quirk 32
            for name, fill, actual in zip(
                ("input_ids", "labels"), (tokenizer.pad, IGNORE_ID), encoded, strict=True
            ):
                padding = max(0, width - len(actual))
                padded = np.pad(actual, (0, padding), constant_values=fill)[:width]
                assert padded.tolist() == entry[name][row], (entry["task"], name)


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=1).map("".join), min_size=2, max_size=6))
@settings(max_examples=60)
def test_turn_by_turn_gives_the_ids_of_the_rendered_string(goldens, turns):
    tokenizer = load_tokenizer(goldens / "tokenizer")
    turns = [with_preamble(turns[0]), *turns[1 : len(turns) // 2 * 2]]
    expected = tokenizer.encode_with_images(RELEASED_TEMPLATE.render(turns))
    assert encode_turns(turns, tokenizer).ids.tolist() == expected


def test_learned_tokens_decode_to_the_answers(tokenizer):
    turns = [with_preamble("What is this?"), "<p> A dog </p> [SEG].", "And this?", "A red bus."]
    ids, labels = encode_turns(turns, tokenizer)
    learned = labels != IGNORE_ID
    assert (labels[learned] == ids[learned]).all()
    runs = np.split(ids, np.flatnonzero(np.diff(learned)) + 1)
    decoded = [tokenizer.decode(run) for run in runs]
    assert decoded[1::2] == ["<p> A dog </p> [SEG]  .</s>", " A red bus.</s>"]


@pytest.mark.parametrize("answer", [*SEGMENTATION_ANSWERS, "10 dogs", "x", "\u6771\u4eac"])
def test_every_answer_ends_with_its_end_mark(tokenizer, answer):
    ids, labels = encode_turns([with_preamble("What?"), answer], tokenizer)
    assert labels[0] == IGNORE_ID
    assert labels[-1] == ids[-1] == tokenizer.eos


def test_quirk_31_marks_of_the_template_in_a_turn_are_text(tokenizer):
    """The original finds two answers in one round here, and fails."""
    turns = [with_preamble("What does it say?"), "USER: hi ASSISTANT: ho"]
    ids, labels = encode_turns(turns, tokenizer)
    assert tokenizer.decode(ids[labels != IGNORE_ID]) == " USER: hi ASSISTANT: ho</s>"


@pytest.mark.parametrize("token", ["<unk>", "</s>", "<s>"])
def test_quirk_8_a_control_token_in_the_text_is_refused(tokenizer, token):
    with pytest.raises(LabelError, match=f"contains the control token '{token}'"):
        encode_turns(["Q", f"an {token} answer"], tokenizer)


def test_a_question_without_an_answer_is_refused(tokenizer):
    for turns in ([], ["Q"], ["Q", ""]):
        with pytest.raises(LabelError, match="every question needs an answer"):
            encode_turns(turns, tokenizer)


def test_a_template_without_end_marks_cannot_be_labelled(tokenizer):
    with pytest.raises(LabelError, match="no mark that ends an answer"):
        encode_turns(["Q", "A"], tokenizer, chat_template("v0"))
