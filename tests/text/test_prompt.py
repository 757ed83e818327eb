"""Prompts have the recorded ids, and what the model cannot answer is refused beforehand."""

from __future__ import annotations

import json

import pytest

from glamm_jax.text.prompt import PromptError, build_prompt
from glamm_jax.text.questions import GCG_INSTRUCTION, REGION_INSTRUCTION, with_preamble
from glamm_jax.text.special_tokens import IMAGE_ID
from glamm_jax.text.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(goldens):
    return load_tokenizer(goldens / "tokenizer")


def test_prompts_of_the_evaluations_have_the_recorded_ids(goldens, tokenizer):
    path = goldens / "conversations" / "inference_golden.json"
    output = json.loads(path.read_text("utf-8"))["outputs"][0]
    gcg = build_prompt(GCG_INSTRUCTION, tokenizer)
    assert gcg.ids.tolist() == output["gcg"]["ids"]
    region = build_prompt(REGION_INSTRUCTION, tokenizer, num_regions=1)
    assert region.ids.tolist() == output["region"]["ids"]


def test_the_image_counts_as_its_patches(tokenizer):
    prompt = build_prompt("What is this?", tokenizer, num_image_tokens=9, context=500)
    assert (prompt.ids == IMAGE_ID).sum() == 1
    assert prompt.length == len(prompt.ids) + 8
    assert prompt.max_answer_tokens == 500 - prompt.length


def test_a_prompt_may_fill_the_context_up_to_one_token(tokenizer):
    length = build_prompt("What is this?", tokenizer).length
    assert build_prompt("What is this?", tokenizer, context=length + 1).max_answer_tokens == 1
    with pytest.raises(PromptError, match="by at least 1 tokens"):
        build_prompt("What is this?", tokenizer, context=length)


def test_the_image_comes_with_the_first_question_of_a_conversation(tokenizer):
    prompt = build_prompt("And now?", tokenizer, history=[("What is this?", "A dog.")])
    assert with_preamble("What is this?") in prompt.text
    assert prompt.text.endswith(" ASSISTANT: A dog.</s>USER: And now? ASSISTANT:")
    assert (prompt.ids == IMAGE_ID).sum() == 1


def test_regions_are_counted_over_the_complete_conversation(tokenizer):
    history = [("What is in <bbox>?", "A dog.")]
    assert build_prompt("And <bbox>?", tokenizer, history=history, num_regions=2).num_regions == 2
    with pytest.raises(PromptError, match="in the prompt: 2; number of boxes: 1"):
        build_prompt("And <bbox>?", tokenizer, history=history, num_regions=1)
