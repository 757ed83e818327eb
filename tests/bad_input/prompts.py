"""Cases of prompts, tokenizers and answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.text.prompt import build_prompt
from glamm_jax.text.tokenizer import Tokenizer, load_tokenizer
from tests.bad_input.case import Case

TOKENIZER = Path(__file__).resolve().parents[1] / "goldens" / "tokenizer"

_PROMPTS = "Prompts"
_TOKENIZERS = "Tokenizers"
_ANSWERS = "Answers of the model"


def _prompt(question: str, **options: object) -> Callable[[Path], str]:
    def run(_: Path) -> str:
        prompt = build_prompt(question, load_tokenizer(TOKENIZER), **options)
        return f"{prompt.length} tokens, {prompt.max_answer_tokens} left for the answer"

    return run


def _tokenizer(change: Callable[[Path], object]) -> Callable[[Path], str]:
    def run(folder: Path) -> str:
        copy = folder / "tokenizer"
        shutil.copytree(TOKENIZER, copy)
        change(copy)
        tokenizer: Tokenizer = load_tokenizer(copy)
        return f"{tokenizer.size} ids, [SEG] is {tokenizer.tokens.seg}"

    return run


def _other_seg(_: Path) -> str:
    tokenizer = load_tokenizer(TOKENIZER)
    load_tokenizer(TOKENIZER, replace(tokenizer.tokens, seg=tokenizer.tokens.seg - 2))
    return "accepted"


def _added(ids: dict[str, int]) -> Callable[[Path], object]:
    return lambda folder: (folder / "added_tokens.json").write_text(json.dumps(ids))


def _answer(text: str) -> Callable[[Path], str]:
    def run(_: Path) -> str:
        answer = parse_answer(text)
        phrases = [f"{phrase.text!r} at {phrase.start}:{phrase.end}" for phrase in answer.phrases]
        parts = [repr(answer.text), *phrases, f"{answer.num_segs} [SEG]", *answer.problems]
        return "; ".join(parts)

    return run


CASES: tuple[Case, ...] = (
    Case(
        _PROMPTS,
        "empty",
        _prompt(""),
        "PromptError: the prompt is empty. Ask something about the image.",
    ),
    Case(
        _PROMPTS,
        "only white space",
        _prompt(" \n\t"),
        "PromptError: the prompt is empty. Ask something about the image.",
    ),
    Case(
        _PROMPTS,
        "longer than the context",
        _prompt("dog " * 2000),
        "PromptError: the prompt is too long: 2650 tokens (576 of them for the image) "
        "leave none for an answer in a context of 2048. Shorten the question or the "
        "history by at least 603 tokens.",
    ),
    Case(
        _PROMPTS,
        "an empty question in the history",
        _prompt("And now?", history=[("", "A dog.")]),
        "PromptError: question 1 of the history is empty. Ask something about the image.",
    ),
    Case(
        _PROMPTS,
        "an empty answer in the history",
        _prompt("And now?", history=[("What is this?", "")]),
        "PromptError: answer 1 of the history is empty. Leave its turn out of the history.",
    ),
    Case(
        _PROMPTS,
        "an answer with <bbox> in the history",
        _prompt("And now?", history=[("What is this?", "A <bbox>.")]),
        "PromptError: answer 1 of the history contains <bbox>; only questions may refer to boxes.",
    ),
    Case(
        _PROMPTS,
        "an answer with <image> in the history",
        _prompt("And now?", history=[("What is this?", "<image>")]),
        "PromptError: answer 1 of the history contains <image> at character 0; the image is put in "
        "front of the question for you, so leave the token out.",
    ),
    Case(
        _PROMPTS,
        "contains <image>",
        _prompt("What is in <image>?"),
        "PromptError: the prompt contains <image> at character 11; the image is put in "
        "front of the question for you, so leave the token out.",
    ),
    Case(
        _PROMPTS,
        "contains an end token",
        _prompt("Hello</s>"),
        "PromptError: the prompt contains the control token </s> at character 5; it "
        "would end or mask the text, so leave it out.",
    ),
    Case(
        _PROMPTS,
        "not valid Unicode",
        _prompt("a\ud800"),
        "PromptError: the prompt is not valid Unicode at character 1",
    ),
    Case(
        _PROMPTS,
        "fewer <bbox> than boxes",
        _prompt("What is in <bbox>?", num_regions=2),
        "PromptError: number of <bbox> in the prompt: 1; number of boxes: 2. Write "
        '<bbox> once for each box, in their order, as in "What is in region1 <bbox>?"',
    ),
    Case(
        _PROMPTS,
        "more <bbox> than boxes",
        _prompt("Compare <bbox> and <bbox>.", num_regions=1),
        "PromptError: number of <bbox> in the prompt: 2; number of boxes: 1. Write "
        '<bbox> once for each box, in their order, as in "What is in region1 <bbox>?"',
    ),
    Case(
        _PROMPTS,
        "boxes without a <bbox>",
        _prompt("What is this?", num_regions=1),
        "PromptError: number of <bbox> in the prompt: 0; number of boxes: 1. Write "
        '<bbox> once for each box, in their order, as in "What is in region1 <bbox>?"',
    ),
    Case(
        _PROMPTS,
        "any other characters",
        _prompt("\x00 \u6771\u4eac [SEG] <p>"),
        "657 tokens, 1391 left for the answer",
    ),
    Case(
        _TOKENIZERS,
        "[SEG] with another id than in the model",
        _other_seg,
        "TokenizerError: the tokenizer does not belong to this model: [SEG] is 804 "
        "here, 802 in the model. Use the tokenizer folder that came with the "
        "checkpoint.",
    ),
    Case(
        _TOKENIZERS,
        "a folder without tokenizer.model",
        _tokenizer(lambda folder: (folder / "tokenizer.model").unlink()),
        "TokenizerError: tokenizer/tokenizer.model: no such file; a tokenizer folder "
        "holds LLaMA's tokenizer.model, or the tokenizer.json of transformers",
    ),
    Case(
        _TOKENIZERS,
        "a damaged tokenizer.model",
        _tokenizer(lambda folder: (folder / "tokenizer.model").write_bytes(b"no")),
        "TokenizerError: tokenizer/tokenizer.model: not a sentencepiece model",
    ),
    Case(
        _TOKENIZERS,
        "a damaged tokenizer_config.json",
        _tokenizer(lambda folder: (folder / "tokenizer_config.json").write_text("{")),
        "TokenizerError: tokenizer/tokenizer_config.json: not valid JSON: Expecting property name "
        "enclosed in double quotes",
    ),
    Case(
        _TOKENIZERS,
        "added tokens whose ids have a gap",
        _tokenizer(_added({"[SEG]": 900})),
        "TokenizerError: tokenizer: ids of the added tokens {'[SEG]': 900} do not "
        "follow the 800 pieces one by one",
    ),
    Case(
        _TOKENIZERS,
        "added tokens in another order: they keep their ids",
        _tokenizer(_added({"[SEG]": 800, "<p>": 801})),
        "807 ids, [SEG] is 800",
    ),
    Case(
        _ANSWERS,
        "a phrase without a closing tag",
        _answer("<p> A dog [SEG] runs."),
        "'A dog runs.'; 1 [SEG]; [SEG] at 10 is inside a phrase; <p> at 0 is never closed; "
        "[SEG] 0 belongs to no phrase",
    ),
    Case(
        _ANSWERS,
        "a phrase without [SEG]",
        _answer("<p> A dog </p> runs."),
        "'A dog runs.'; 'A dog' at 0:5; 0 [SEG]; phrase 0 'A dog' has no [SEG]",
    ),
    Case(
        _ANSWERS,
        "[SEG] apart from its phrase",
        _answer("<p> A dog </p> runs [SEG]."),
        "'A dog runs.'; 'A dog' at 0:5; 1 [SEG]; phrase 0 'A dog' has no [SEG]; [SEG] "
        "0 belongs to no phrase",
    ),
    Case(
        _ANSWERS,
        "a closing tag without an opening one",
        _answer("A dog </p> [SEG]"),
        "'A dog'; 1 [SEG]; </p> at 6 has no <p> before it; [SEG] 0 belongs to no phrase",
    ),
    Case(
        _ANSWERS,
        "an empty answer",
        _answer(""),
        "''; 0 [SEG]",
    ),
)
