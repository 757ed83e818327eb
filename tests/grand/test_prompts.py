"""The requests to the language model and the file of their texts."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from glamm_jax.grand import lexicon
from glamm_jax.grand.prompts import (
    PromptTextError,
    default_prompts,
    parse_request,
    read_prompts,
)
from glamm_jax.grand.roles import ChatMessage
from glamm_jax.grand.verification import parse_checklist

FILE = Path(lexicon.__file__).parent / "data" / "prompts.toml"
GRAPH = "Foreground:\nGroup 0: dog/a brown dog\n\nLandmarks:\nOutdoor scene, Road"
PROMPTS = default_prompts()
REQUESTS = {
    "caption": PROMPTS.caption(GRAPH),
    "feedback": PROMPTS.feedback(GRAPH, "A cat.", ("a cat", "two hens")),
    "checklist": PROMPTS.checklist("A brown dog runs."),
    "context": PROMPTS.context(GRAPH),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_is_a_conversation_that_ends_with_its_subject(kind: str) -> None:
    messages = REQUESTS[kind]
    assert messages[0].role == "system"
    assert [m.role for m in messages[1:]] == ["user", "assistant"] * (len(messages) // 2 - 1) + [
        "user"
    ]
    assert messages[-1].text.endswith("A brown dog runs." if kind == "checklist" else GRAPH)


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_can_be_parsed(kind: str) -> None:
    subject = "A brown dog runs." if kind == "checklist" else GRAPH
    missing = ("a cat", "two hens") if kind == "feedback" else ()
    parsed = parse_request(REQUESTS[kind], PROMPTS)
    assert (parsed.kind, parsed.subject, parsed.missing) == (kind, subject, missing)


def test_what_is_no_request() -> None:
    for messages in ((), (ChatMessage("user", "Hello"),)):
        with pytest.raises(PromptTextError, match="not a request"):
            parse_request(messages, PROMPTS)


@pytest.mark.parametrize("kind", ["caption", "context"])
def test_two_examples_one_small_and_one_large(kind: str) -> None:
    messages = REQUESTS[kind]
    graphs, answers = messages[1:5:2], messages[2:5:2]
    assert len(graphs) == len(answers) == 2
    small, large = (len(parse_request((graph,), PROMPTS).subject) for graph in graphs)
    assert 1.4 * small < large
    low, high = (2, 4) if kind == "caption" else (5, 7)
    for answer in answers:
        assert low <= len(re.findall(r"[.!?](?:\s|$)", answer.text)) <= high
        assert "\n" not in answer.text


def test_the_instruction_explains_the_four_parts_of_the_graph() -> None:
    text = PROMPTS.caption("")[0].text
    for part in ("Layers of depth", "Groups", "Relationships", "Landmarks"):
        assert re.search(rf"^\d\. {part}:", text, re.MULTILINE)


def test_feedback_has_the_last_caption_and_what_is_missing() -> None:
    *_, caption, request = REQUESTS["feedback"]
    assert caption == ChatMessage("assistant", "A cat.")
    assert "\n- a cat\n- two hens\n" in request.text
    assert "{" not in request.text


def test_the_example_of_a_checklist_follows_its_own_rules() -> None:
    assert parse_checklist(PROMPTS.checklist("")[2].text, PROMPTS.marker) == (
        "a tired cyclist",
        "a bench",
        "his blue bike",
        "his helmet",
        "two crows",
        "a wall",
    )
    assert f'"{PROMPTS.marker} none"' in PROMPTS.checklist_request


def test_the_fingerprint_changes_with_every_text(tmp_path: Path) -> None:
    assert read_prompts(FILE) == PROMPTS
    text = FILE.read_text("utf-8")
    other = tmp_path / "prompts.toml"
    for old in ("2 to 4", "5 to 7", "at most three", "lighthouse", "beehive"):
        assert old in text
        other.write_text(text.replace(old, "few", 1), "utf-8")
        assert read_prompts(other).fingerprint != PROMPTS.fingerprint
    assert PROMPTS.fingerprint.startswith(f"prompts-{PROMPTS.version}-")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version = "1"', "", "version is not a text"),
        ("{missing}", "", "placeholder {missing} once"),
        ("{marker}", "", "placeholder {marker}"),
        ('marker = "OBJECT:"', "marker = 3", "checklist.marker is not a text"),
        ("[[context.examples]]\ngraph = ", "[[context.examples]]\nother = ", "context.examples[0]"),
        ("[caption]", "[caption", "prompts.toml"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "prompts.toml"
    text = FILE.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(PromptTextError, match=re.escape(message)):
        read_prompts(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(PromptTextError, match=r"no\.toml"):
        read_prompts(tmp_path / "no.toml")
