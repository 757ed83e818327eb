"""Captions must contain what they are made of, and the model learns what they lack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from glamm_jax.grand.grandf.caption_rewriting import (
    RewriteOptions,
    RewriteTask,
    find_phrase,
    missing_texts,
    request_digest,
    rewrite_captions,
)
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, RoleError
from glamm_jax.grand.verification import LLMOutputError

PHRASES = RewriteTask("7", "refcocog", ("a red car", "the tall man"), ("A street.",))
RELATIONS = RewriteTask("8", "psg", ("dog-1, chasing, dog-2", "dog-2, on, grass-merged-1"))


class ScriptedLLM:
    """Answers from a list, each about one image."""

    name, fingerprint, needs_device = "scripted", "scripted-1", False

    def __init__(self, **answers: Sequence[str | LLMAnswer | RoleError]):
        self.answers = {key: list(items) for key, items in answers.items()}
        self.requests: list[LLMRequest] = []

    def setup(self) -> None: ...

    def __call__(self, requests: Sequence[LLMRequest]) -> list[Any]:
        self.requests += requests
        answers = [self.answers[f"image{request.image_id}"].pop(0) for request in requests]
        return [LLMAnswer(x, "stop") if isinstance(x, str) else x for x in answers]


GOOD = "A red car stands beside the tall man."


def test_what_is_missing_is_asked_for_again() -> None:
    llm = ScriptedLLM(image7=["A car stands beside the tall man.", GOOD])
    (result,) = rewrite_captions([PHRASES], llm)
    assert (result.caption, result.missing, result.num_requests) == (GOOD, (), 2)
    first, second = llm.requests
    assert first.seed != second.seed
    assert first.messages[-1].text.endswith(PHRASES.request)
    assert second.messages[-2].text == "A car stands beside the tall man."
    assert "- a red car" in second.messages[-1].text.split("Phrases:")[0]
    assert "- the tall man" not in second.messages[-1].text.split("Phrases:")[0]


def test_the_best_answer_counts() -> None:
    answers = ["A street scene here.", "There is a red car.", "There is a street.", "A town scene."]
    (result,) = rewrite_captions([PHRASES], ScriptedLLM(image7=answers))
    assert (result.caption, result.missing) == ("There is a red car.", ("the tall man",))
    assert result.num_requests == 4 and not result.failed


def test_unusable_answers_are_asked_for_again_with_another_seed() -> None:
    refusal, cut = "I'm sorry, I cannot see images.", LLMAnswer("A red car and the", "length")
    llm = ScriptedLLM(image7=[refusal, cut, f'Caption: "{GOOD}"'])
    (result,) = rewrite_captions([PHRASES], llm)
    assert (result.caption, result.num_requests) == (GOOD, 3)
    assert len({request.seed for request in llm.requests}) == 3
    assert all(request.messages == llm.requests[0].messages for request in llm.requests)


def test_without_a_usable_answer_there_is_no_caption() -> None:
    options = RewriteOptions(max_rounds=2, max_retries=1)
    refusal = "I'm sorry, I cannot see images."
    (result,) = rewrite_captions([PHRASES], ScriptedLLM(image7=[refusal] * 2), options)
    assert (result.caption, result.problem, result.failed) == (None, "refusal", False)
    assert result.missing == PHRASES.required
    error = RoleError("model", "no connection")
    (result,) = rewrite_captions([PHRASES], ScriptedLLM(image7=[error] * 2), options)
    assert (result.caption, result.problem, result.failed) == (None, "no connection", True)


def test_a_result_does_not_depend_on_the_other_tasks() -> None:
    answers = {
        "image7": ["A car is here.", GOOD],
        "image8": [
            "dog-1 chases dog-3 on grass-merged-1.",
            "dog-1 chases dog-2 on grass-merged-1.",
        ],
    }
    together = rewrite_captions([PHRASES, RELATIONS], ScriptedLLM(**answers))
    alone = [rewrite_captions([task], ScriptedLLM(**answers))[0] for task in (PHRASES, RELATIONS)]
    assert together == alone
    assert together[1].caption == "dog-1 chases dog-2 on grass-merged-1."


def test_numbered_things_are_complete_and_known() -> None:
    assert RELATIONS.required == ("dog-1", "dog-2", "grass-merged-1")
    assert missing_texts(RELATIONS, "Dog-1 chases dog-2 on grass-merged-1.") == ()
    assert missing_texts(RELATIONS, "dog-1 chases dog-2 on grass-1.") == (
        "grass-merged-1",
        "grass-1",
    )
    assert missing_texts(RELATIONS, "dog-1 chases a dog on grass-merged-1.") == ("dog-2",)


@pytest.mark.parametrize(
    ("caption", "phrase", "spans"),
    [
        ("A red car.", "a red car", [(0, 9)]),
        ("a red carpet", "a red car", []),
        ("extra red car, a red car", "a red car", [(15, 24)]),
        ("a (b) c. A (b) C", "a (b) c", [(0, 7), (9, 16)]),
    ],
)
def test_phrases_are_complete_words_in_any_case(
    caption: str, phrase: str, spans: list[tuple[int, int]]
) -> None:
    assert find_phrase(caption, phrase) == spans


def test_requests_differ_with_their_content() -> None:
    other = RewriteTask("7", "refcocog", ("a red car",), ("A street.",))
    assert request_digest(PHRASES) != request_digest(other)
    many = RewriteTask("7", "refcocog", ("a",), tuple(f"caption\n{i}" for i in range(9)))
    assert many.request.splitlines()[-1] == "- caption 4"


def test_a_model_that_loses_requests_is_an_error() -> None:
    class Losing(ScriptedLLM):
        def __call__(self, requests: Sequence[LLMRequest]) -> list[Any]:
            return []

    with pytest.raises(LLMOutputError, match="1 requests, 0 answers of scripted"):
        rewrite_captions([PHRASES], Losing())
