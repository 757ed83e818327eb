"""Labels are the answers with their end marks, exactly as the original masks them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from glamm_jax.text.chat import RELEASED_TEMPLATE, template
from glamm_jax.text.labels import LabelError, answer_spans, encode_turns, label_ids
from glamm_jax.text.questions import IMAGE_TOKENS, SEGMENTATION_ANSWERS, with_preamble
from glamm_jax.text.special_tokens import IGNORE_ID
from glamm_jax.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(goldens):
    return load_tokenizer(goldens / "tokenizer")


def test_labels_of_every_recorded_batch_are_the_recorded_ones(goldens, tokenizer):
    path = goldens / "conversations" / "collate_golden.json"
    entries = json.loads(path.read_text("utf-8"))["entries"]
    for entry in entries:
        for row, conversation in enumerate(entry["conversations"]):
            text = conversation.replace("<image>", IMAGE_TOKENS)
            ids = np.asarray(tokenizer.encode_with_images(text), np.int32)
            labels = label_ids(text, ids, tokenizer)
            width = len(entry["input_ids"][row])  # padded, or cut to the context (trap 32)
            padding = max(0, width - len(ids))
            padded = np.pad(labels, (0, padding), constant_values=IGNORE_ID)[:width]
            assert padded.tolist() == entry["labels"][row], entry["task"]


def test_learned_tokens_read_as_the_answers(tokenizer):
    turns = [with_preamble("What is this?"), "<p> A dog </p> [SEG].", "And this?", "A red bus."]
    ids, labels = encode_turns(turns, tokenizer)
    spans = answer_spans(RELEASED_TEMPLATE.render(turns), tokenizer)
    read = [tokenizer.decode(ids[start:stop]) for start, stop in spans]
    assert read == ["<p> A dog </p> [SEG]  .</s>", " A red bus.</s>"]
    learned = np.concatenate([np.arange(*span) for span in spans])
    assert np.flatnonzero(labels != IGNORE_ID).tolist() == learned.tolist()
    assert (labels[learned] == ids[learned]).all()


@pytest.mark.parametrize("answer", [*SEGMENTATION_ANSWERS, "10 dogs", "x", "\u6771\u4eac"])
def test_every_answer_ends_with_its_end_mark(tokenizer, answer):
    ids, labels = encode_turns([with_preamble("What?"), answer], tokenizer)
    assert labels[0] == IGNORE_ID
    assert labels[-1] == ids[-1] == tokenizer.eos


def test_an_unknown_token_in_the_text_is_refused(tokenizer):
    with pytest.raises(LabelError, match="does the text contain '<unk>'"):
        encode_turns(["Q", "an <unk> answer"], tokenizer)


def test_a_round_without_an_answer_is_refused(tokenizer):
    with pytest.raises(LabelError, match="0 times ' ASSISTANT: ' instead of once"):
        answer_spans("A system line. USER: Q</s>", tokenizer)
    with pytest.raises(LabelError, match="every question needs an answer"):
        encode_turns(["Q"], tokenizer)


def test_a_template_without_end_marks_cannot_be_labelled(tokenizer):
    with pytest.raises(LabelError, match="no mark that ends an answer"):
        answer_spans("x", tokenizer, template("v0"))
