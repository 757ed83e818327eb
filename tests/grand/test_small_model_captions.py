"""Verification of 50 captions that a model of 135 million parameters wrote about photographs.

`small_model_captions.jsonl`: what the graph has, the caption, the same model's checklist, and the
words for objects that the graph has not, marked by hand. Parts of an object, a more general word
and a second object of a kind count as being in the graph.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from glamm_jax.grand.graph_facts import GraphText, ObjectFacts
from glamm_jax.grand.phrase_matching import KnownObjects
from glamm_jax.grand.prompts import default_prompts
from glamm_jax.grand.roles import LLMAnswer, LLMRequest
from glamm_jax.grand.text_parser import RuleParser
from glamm_jax.grand.verification import VerificationOptions, rule_checklists, write_dense_captions

PATH = Path(__file__).with_name("small_model_captions.jsonl")
CASES: list[dict[str, Any]] = [json.loads(line) for line in PATH.read_text().splitlines()]
PARSER = RuleParser()


class Recording:
    """A model that says what is recorded."""

    name, fingerprint, needs_device = "recording", "recording-1", False

    def __init__(self, texts: list[str]):
        self._texts = texts

    def setup(self) -> None: ...

    def __call__(self, requests: list[LLMRequest]) -> list[LLMAnswer]:
        return [LLMAnswer(self._texts[int(request.image_id)], "stop") for request in requests]


def graph(number: int) -> GraphText:
    case = CASES[number]
    facts = tuple(ObjectFacts(k, (label,)) for k, label in enumerate(case["objects"]))
    return GraphText(str(number), "text", facts, (), tuple(case["tags"]))


def flagged_words(add_rules: bool) -> list[set[str]]:
    """Return the words of the phrases that verification flags in each caption."""
    marker = default_prompts().marker
    checklists = ["\n".join(f"{marker} {x}" for x in case["checklist"]) for case in CASES]
    results = write_dense_captions(
        [graph(number) for number in range(len(CASES))],
        Recording([case["caption"] for case in CASES]),
        Recording(checklists),
        VerificationOptions(max_rounds=1, max_retries=0, add_rules=add_rules),
    )
    assert [result.source for result in results] == ["llm"] * len(CASES)
    return [words(" ".join(result.attempts[0].missing)) for result in results]


def words(text: str) -> set[str]:
    return {*re.findall(r"[a-z]+", text.lower())}


def share_of_marked(flagged: list[set[str]]) -> float:
    marked = [word in found for found, case in zip(flagged, CASES, strict=True)
              for word in case["unsupported"]]  # fmt: skip
    return sum(marked) / len(marked)


def test_the_marked_words_are_those_of_the_captions() -> None:
    assert len(CASES) == 50
    for case in CASES:
        assert {*case["unsupported"]} <= words(case["caption"])
    assert sum(len(case["unsupported"]) for case in CASES) == 166
    assert sum(bool(case["unsupported"]) for case in CASES) == 46


def test_every_object_that_the_graph_lacks_is_flagged() -> None:
    flagged = flagged_words(add_rules=True)
    missed = [
        (case["caption"], word)
        for found, case in zip(flagged, CASES, strict=True)
        for word in case["unsupported"]
        if word not in found
    ]
    assert missed == []


def test_a_small_model_as_checker_finds_half_of_them() -> None:
    assert 0.4 < share_of_marked(flagged_words(add_rules=False)) < 0.55


def test_what_the_graph_has_is_not_flagged_by_the_rules() -> None:
    """Of the phrases that rules add, six of seven have a marked word."""
    true = wrong = 0
    for number, case in enumerate(CASES):
        known = KnownObjects(graph(number), PARSER)
        (named,) = rule_checklists([case["caption"]], PARSER)
        for phrase in known.missing(named):
            is_marked = bool(words(phrase) & {*case["unsupported"]})
            true, wrong = true + is_marked, wrong + (not is_marked)
    assert true / (true + wrong) > 0.85, (true, wrong)
