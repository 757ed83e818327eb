"""Rounds of captions, checks and feedback, with scripted language models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from glamm_jax.grand.graph_facts import GraphText, ObjectFacts
from glamm_jax.grand.prompts import ParsedRequest, default_prompts, parse_request
from glamm_jax.grand.record import CaptionAttempt
from glamm_jax.grand.roles import LLMAnswer, LLMRequest, RoleError
from glamm_jax.grand.text_parser import RuleParser
from glamm_jax.grand.verification import (
    PAPER,
    RELEASED,
    DenseCaptionResult,
    LLMOutputError,
    VerificationOptions,
    attempt_seed,
    parse_checklist,
    rule_checklists,
    verification_fingerprint,
    write_contexts,
    write_dense_captions,
)

PROMPTS = default_prompts()
TRUE = "A red car stands next to two dogs."
INVENTED = "A red car stands next to two dogs and a white cat."
WORSE = "A green truck stands next to an elephant and a white cat."
CONTEXT = (
    "Cars carry people and goods over long distances and were first built in the nineteenth "
    "century. Dogs have lived with people for thousands of years and guard their houses. A dog "
    "that runs between moving cars is in danger. Drivers should slow down where animals play."
)
Answer = LLMAnswer | RoleError | str
Script = Callable[[ParsedRequest, LLMRequest, int], Answer]


class ScriptedLLM:
    """A language model that answers as a function says; the number is that of the request."""

    name, fingerprint, needs_device = "scripted", "scripted-1", False

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[LLMRequest] = []
        self.batches: list[int] = []

    def setup(self) -> None: ...

    def __call__(self, requests: Sequence[LLMRequest]) -> list[LLMAnswer | RoleError]:
        self.batches.append(len(requests))
        return [self._answer(request) for request in requests]

    def _answer(self, request: LLMRequest) -> LLMAnswer | RoleError:
        number = sum(old.image_id == request.image_id for old in self.requests)
        self.requests.append(request)
        answer = self.script(parse_request(request.messages, PROMPTS), request, number)
        return LLMAnswer(answer, "stop") if isinstance(answer, str) else answer


def graph(image_id: str = "a") -> GraphText:
    entries = (
        ObjectFacts(0, ("car",), ("a red car",)),
        ObjectFacts(1, ("dog",)),
        ObjectFacts(2, ("dog",)),
    )
    return GraphText(
        image_id, f"Foreground:\nGroup 0: car/a red car, dog, dog ({image_id})", entries
    )


def answers(*texts: Answer) -> ScriptedLLM:
    """A model with these answers, one after the other; the last one for ever."""
    return ScriptedLLM(lambda parsed, request, number: texts[min(number, len(texts) - 1)])


def run(llm: ScriptedLLM, options: VerificationOptions = PAPER) -> DenseCaptionResult:
    (result,) = write_dense_captions([graph()], llm, options=options)
    return result


def test_a_true_caption_is_verified_in_the_first_round() -> None:
    llm = answers(TRUE)
    assert run(llm) == DenseCaptionResult(
        TRUE, "llm", (CaptionAttempt(TRUE, checklist=("A red car", "two dogs")),), 0, True
    )
    assert llm.requests == [
        LLMRequest("a", PROMPTS.caption(graph().text), attempt_seed("a", "dense_caption", 0))
    ]


def test_feedback_names_what_the_caption_invented() -> None:
    llm = answers(INVENTED, TRUE)
    result = run(llm)
    assert (result.caption, result.verified, result.accepted) == (TRUE, True, 1)
    assert [x.missing for x in result.attempts] == [("a white cat",), ()]
    feedback = llm.requests[1]
    assert feedback.messages == PROMPTS.feedback(graph().text, INVENTED, ("a white cat",))
    assert feedback.messages[-1].text.endswith(graph().text)
    assert feedback.seed == attempt_seed("a", "dense_caption", 1)


def test_a_colour_that_the_graph_contradicts() -> None:
    result = run(answers("A green car stands next to two dogs.", TRUE))
    assert result.attempts[0].missing == ("A green car",)
    options = replace(PAPER, match_colours=False)
    assert run(answers("A green car stands next to two dogs."), options).verified is True


@pytest.mark.parametrize("max_rounds", [1, 2, 3])
def test_after_the_last_round_the_caption_is_not_verified(max_rounds: int) -> None:
    llm = answers(INVENTED)
    result = run(llm, replace(PAPER, max_rounds=max_rounds))
    assert (result.caption, result.source, result.verified) == (INVENTED, "llm", False)
    assert len(llm.requests) == len(result.attempts) == max_rounds
    assert result.accepted == max_rounds - 1


def test_the_caption_that_lacks_least_is_accepted() -> None:
    result = run(answers(INVENTED, WORSE, WORSE))
    assert (result.caption, result.accepted, result.verified) == (INVENTED, 0, False)
    assert [len(x.missing) for x in result.attempts] == [1, 3, 3]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        ("I'm sorry, I cannot see the photograph.", "refusal"),
        ("", "empty"),
        (LLMAnswer("A red car stands next to", "length"), "not finished"),
        (PROMPTS.caption("")[2].text, "repeats the prompt"),
        ("- a car\n- two dogs\n- a street", "markup"),
        ("The scene graph shows a red car and two dogs.", "source data"),
        (RoleError("model", "out of order"), "model error: out of order"),
    ],
)
def test_an_unusable_answer_is_asked_for_again_with_another_seed(bad: Answer, problem: str) -> None:
    llm = answers(bad, bad, TRUE)
    result = run(llm)
    assert [x.problem for x in result.attempts] == [problem, problem, None]
    assert (result.caption, result.accepted, result.verified, result.error) == (TRUE, 2, True, None)
    assert [x.seed for x in llm.requests] == [
        attempt_seed("a", "dense_caption", k) for k in range(3)
    ]
    assert len({x.messages for x in llm.requests}) == 1


def test_a_model_that_always_refuses_is_replaced_by_a_template() -> None:
    llm = answers("I'm sorry, I cannot help with that.")
    result = run(llm)
    assert result.caption == "The image shows a red car and two dogs."
    assert (result.source, result.accepted, result.verified) == ("template", None, None)
    assert [x.problem for x in result.attempts] == ["refusal"] * 4
    assert run(llm, replace(PAPER, use_template=False)).caption is None


def test_a_model_that_fails_keeps_its_error() -> None:
    error = RoleError("model", "gone")
    result = run(answers(error), replace(PAPER, max_retries=1))
    assert (result.source, result.error) == ("template", error)
    assert result.attempts == (CaptionAttempt("", "error", "model error: gone"),) * 2


def test_a_usable_caption_stays_if_later_answers_are_unusable() -> None:
    result = run(answers(INVENTED, "I'm sorry, I cannot help."))
    assert (result.caption, result.source, result.verified) == (INVENTED, "llm", False)
    assert (result.accepted, len(result.attempts)) == (0, 5)


def test_additions_are_removed_before_verification() -> None:
    assert run(answers(f'Sure, here is the caption:\n"{TRUE}"')).caption == TRUE


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        (INVENTED, INVENTED),
        (" I'm sorry.\n", "I'm sorry."),
        (LLMAnswer(TRUE, "length"), None),
        (RoleError("model", "gone"), None),
    ],
)
def test_the_released_code_takes_the_first_complete_answer(
    answer: Answer, caption: str | None
) -> None:
    llm = answers(answer)
    result = run(llm, RELEASED)
    assert (result.caption, result.verified, len(llm.requests)) == (caption, None, 1)
    assert result.source == (None if caption is None else "llm")


def test_without_rounds_answers_are_checked_and_not_verified() -> None:
    result = run(answers("No.", INVENTED), replace(PAPER, max_rounds=0))
    assert (result.caption, result.verified, len(result.attempts)) == (INVENTED, None, 2)


def test_a_graph_without_objects_gets_nothing() -> None:
    llm = answers(TRUE)
    empty = GraphText("e", "Landmarks:\nIndoor scene, Living space", (), ("Indoor scene",))
    assert write_dense_captions([empty], llm) == [DenseCaptionResult(None, None)]
    assert write_contexts([empty], llm)[0].text is None
    assert llm.requests == []
    assert write_dense_captions([], llm) == []


# ---------------------------------------------------------------- checklists


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Reason.\nOBJECT: a red car\nOBJECT: two dogs", ("a red car", "two dogs")),
        ("1. object: a red car.\n- OBJECT:  two  dogs \n* **OBJECT:** a cat", None),
        ("OBJECT: a car\r\nOBJECT: a car\r\n", ("a car",)),
        ('OBJECT: "a car"\nOBJECT:\nOBJECT: None', ("a car",)),
        ("There is nothing.\nOBJECT: none", ()),
        ("a red car, two dogs", None),
        ("The OBJECT: is a car", None),
        ("", None),
    ],
)
def test_parse_checklist(text: str, expected: tuple[str, ...] | None) -> None:
    if text.startswith("1."):
        expected = ("a red car", "two dogs", "a cat")
    assert parse_checklist(text, "OBJECT:") == expected


def test_a_checklist_is_limited() -> None:
    text = "\n".join(f"OBJECT: cat {k} " + "x" * 1000 for k in range(1000))
    phrases = parse_checklist(text, "OBJECT:")
    assert phrases is not None and len(phrases) == 100 and max(map(len, phrases)) <= 200


def test_the_checker_is_asked_about_the_caption() -> None:
    checker = answers("Two sentences.\nOBJECT: a car\nOBJECT: a dog\nOBJECT: a hidden unicorn")
    (result,) = write_dense_captions(
        [graph()], answers(TRUE), checker, replace(PAPER, max_rounds=1, add_rules=False)
    )
    assert result.attempts[0].checklist == ("a car", "a dog", "a hidden unicorn")
    assert result.attempts[0].missing == ("a hidden unicorn",)
    assert checker.requests == [
        LLMRequest("a", PROMPTS.checklist(TRUE), attempt_seed("a", "checklist", 0))
    ]


@pytest.mark.parametrize(
    "answer",
    [
        "There are a car, two dogs and a cat.",
        LLMAnswer("OBJECT: a car", "length"),
        RoleError("model", "gone"),
        "OBJECT: none",
    ],
)
def test_an_unusable_checklist_is_made_by_rules(answer: Answer) -> None:
    options = replace(PAPER, max_rounds=1)
    (result,) = write_dense_captions([graph()], answers(INVENTED), answers(answer), options)
    assert result.attempts[0].checklist == ("A red car", "two dogs", "a white cat")
    assert result.attempts[0].missing == ("a white cat",)


def test_what_a_checker_leaves_out_is_found_by_rules() -> None:
    caption = "A red car stands beside a white elephant. A dog sleeps under the car."
    checker = answers("OBJECT: a red car\nOBJECT: the dog's dream")
    options = replace(PAPER, max_rounds=1, max_retries=0)
    (result,) = write_dense_captions([graph()], answers(caption), checker, options)
    attempt = result.attempts[0]
    assert attempt.checklist[:2] == ("a red car", "the dog's dream")
    assert attempt.checklist[2:] == ("a white elephant", "A dog", "the car")
    assert "a white elephant" in attempt.missing
    assert not result.verified
    alone = replace(options, add_rules=False)
    (result,) = write_dense_captions([graph()], answers(caption), checker, alone)
    assert "a white elephant" not in result.attempts[0].missing


def test_rule_checklists() -> None:
    captions = ["A group of birds in the background.", "", "A dog near a dog."]
    assert rule_checklists(captions, RuleParser()) == [("birds",), (), ("A dog", "a dog")]


# ---------------------------------------------------------------- batches


def mixed(parsed: ParsedRequest, request: LLMRequest, number: int) -> Answer:
    """Every image fails in another way, some for ever."""
    kind = request.image_id[-1]
    if parsed.kind == "checklist":
        return (
            "no list" if kind in "02" else "OBJECT: a car" if kind == "4" else RoleError("x", "y")
        )
    invented = INVENTED if request.seed % 3 else WORSE
    return {
        "0": TRUE,
        "1": TRUE if parsed.kind == "feedback" else invented,
        "2": "I'm sorry, I cannot." if request.seed % 2 else invented,
        "3": RoleError("model", "boom"),
        "4": LLMAnswer(TRUE, "length") if number < 2 else TRUE,
        "5": invented,
        "6": PROMPTS.caption("")[2].text,
    }[kind]


IMAGES = [f"{prefix}{k}" for prefix in "xyz" for k in range(7)]


def write(image_ids: Sequence[str]) -> dict[str, DenseCaptionResult]:
    llm = ScriptedLLM(mixed)
    results = write_dense_captions([graph(x) for x in image_ids], llm, llm)
    return dict(zip(image_ids, results, strict=True))


def test_a_result_does_not_depend_on_the_other_images() -> None:
    together = write(IMAGES)
    assert write(IMAGES[::-1]) == together
    alone: dict[str, DenseCaptionResult] = {}
    for image_id in IMAGES:
        alone |= write([image_id])
    assert alone == together
    assert {x.source for x in together.values()} == {"llm", "template"}
    assert {x.verified for x in together.values()} == {True, False, None}
    for image_id, result in together.items():
        assert (result.error is not None) == (image_id[-1] == "3")


def test_images_of_a_batch_share_their_requests() -> None:
    llm = answers(INVENTED, TRUE)
    write_dense_captions([graph(str(k)) for k in range(10)], llm)
    assert llm.batches == [10, 10]


def test_a_model_with_too_few_results() -> None:
    class Short(ScriptedLLM):
        def __call__(self, requests: Sequence[LLMRequest]) -> list[LLMAnswer | RoleError]:
            return super().__call__(requests)[:-1]

    with pytest.raises(LLMOutputError, match="scripted: 0 results for 1 requests"):
        write_dense_captions([graph()], Short(lambda *_: TRUE))


def test_a_result_that_is_no_answer() -> None:
    class Wrong(ScriptedLLM):
        def __call__(self, requests: Sequence[LLMRequest]) -> Any:
            return [None for _ in requests]

    result = run(Wrong(lambda *_: TRUE))
    assert result.error == RoleError("output", "NoneType is not an answer")
    assert result.source == "template"


# ---------------------------------------------------------------- context


def test_contexts() -> None:
    llm = ScriptedLLM(
        lambda parsed, request, number: (
            RoleError("model", "gone")
            if request.image_id == "c"
            else "I'm sorry."
            if request.image_id == "b" and number < 1
            else CONTEXT
        )
    )
    first, second, third = write_contexts([graph("a"), graph("b"), graph("c")], llm)
    assert (first.text, len(first.attempts)) == (CONTEXT, 1)
    assert (second.text, [x.problem for x in second.attempts]) == (CONTEXT, ["refusal", None])
    assert (third.text, third.error, len(third.attempts)) == (None, RoleError("model", "gone"), 4)
    assert llm.requests[0].messages == PROMPTS.context(graph("a").text)
    assert llm.requests[0].seed == attempt_seed("a", "context", 0)
    assert write_contexts([graph()], answers("Short."))[0].text is None
    assert write_contexts([graph()], answers(" Short.\n"), RELEASED)[0].text == "Short."


def test_seeds_and_fingerprint() -> None:
    seeds = {
        attempt_seed(image_id, stage, k)
        for image_id in ("a", "b", "\udcff")
        for stage in ("dense_caption", "context")
        for k in range(10)
    }
    assert len(seeds) == 60 and all(0 <= seed < 2**31 for seed in seeds)
    assert attempt_seed("a", "dense_caption", 0) == attempt_seed("a", "dense_caption", 0)
    other = replace(PROMPTS, fingerprint="prompts-2")
    assert verification_fingerprint() != verification_fingerprint(other)
