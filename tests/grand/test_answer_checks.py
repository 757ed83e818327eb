"""Which answers of a language model can be used, and how they are cleaned."""

from __future__ import annotations

import timeit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.grand.answer_checks import (
    CAPTION_LIMITS,
    CONTEXT_LIMITS,
    clean_answer,
    find_problem,
    word_runs,
)
from glamm_jax.grand.prompts import default_prompts

GOOD = (
    "Two men in dark suits shake hands in front of a glass door. A black car with its lights on "
    "waits at the kerb, and a flag hangs from the façade behind them."
)
CONTEXT = default_prompts().context("")[2].text


def problem(text: str, finish_reason: str = "stop") -> str | None:
    return find_problem(clean_answer(text), finish_reason, CAPTION_LIMITS)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        'The sign says "I\'m here" in white letters.',
        "In the background: a dog sits near a tree.",
        "A man who can't see the ball runs after it.",
        "Three people stand in a group, and two more wait at the bus stop.",
        "A 19th-century clock, 3.5 metres high, shows 10:30.",
        "In the immediate foreground there is a red star.",
        "The picture shows a red star, another red star and one more red star.",
        "A text is written on the wall next to a layer cake.",
        "No image of a saint hangs above the altar.",
    ],
)
def test_good_captions(text: str) -> None:
    assert problem(text) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (" \n\t ", "empty"),
        ("I'm sorry, but I cannot see the photograph.", "refusal"),
        ("I\u2019m unable to describe a picture that I have not got.", "refusal"),
        ("As an AI language model, I do not have eyes to look at things.", "refusal"),
        ("Please provide the photograph, then it can be described.", "refusal"),
        ("No image was provided, so there is nothing to describe.", "refusal"),
        ("I apologize for the confusion about the red car.", "refusal"),
        ("- a dog\n- a cat on a mat\n- a wall", "markup"),
        ("1. A dog runs on a beach.\n2. A cat sleeps.", "markup"),
        ("# Caption\nA dog runs on the beach.", "markup"),
        ('{"caption": "A dog runs on the beach."}', "markup"),
        ("A **brown dog** runs on the beach.", "markup"),
        ("```\nA dog runs on the beach.\n```", "markup"),
        ("A <b>dog</b> runs on the beach.", "markup"),
        ("See [a dog](dog.jpg) on the beach today.", "markup"),
        ("| dog | brown |\n| cat | black |", "markup"),
        ("The scene graph shows a dog and a beach.", "source data"),
        ("Group 3 has a dog that runs on the beach.", "source data"),
        ("Foreground:\nGroup 0: dog and a cat", "source data"),
        ("Based on the provided information, a dog runs.", "source data"),
        ("A dog with the bounding box 1, 2, 3, 4.", "source data"),
        ("A dog, Group Ids: (1), runs on the beach.", "source data"),
        ("A dog runs on the beach. A dog runs on the beach.", "repeats itself"),
        ("a very very very very very very big dog", "repeats itself"),
        ("there is a dog on the wet beach and " * 4, "repeats itself"),
        ("A dog.", "too short"),
        (" ".join(f"word{k}" for k in range(400)), "too long"),
        (" ".join(f"Dog {k} runs past tree {k}." for k in "abcdefghijkl"), "too long"),
        ("\u4e00\u53ea\u72d7\u5728\u6c99\u6ee9\u4e0a\u5954\u8dd1", "not text"),
        ("!!! ??? ... 12 34 56 78", "not text"),
        ("A dog \x00 runs on the beach.", "not text"),
        ("A dog \ufffd runs on the beach.", "not text"),
    ],
)
def test_answers_that_cannot_be_used(text: str, expected: str) -> None:
    assert problem(text) == expected


def test_an_answer_that_was_cut() -> None:
    assert problem(GOOD, "length") == "not finished"
    assert problem("", "length") == "empty"


def test_an_answer_that_repeats_the_examples() -> None:
    messages = default_prompts().caption("")
    runs = frozenset().union(*(word_runs(message.text) for message in messages))
    for message in messages[2::2]:
        assert find_problem(message.text, "stop", CAPTION_LIMITS, runs) == "repeats the prompt"
        assert find_problem(message.text, "stop", CAPTION_LIMITS) is None
    assert find_problem(GOOD, "stop", CAPTION_LIMITS, runs) is None


def test_a_context_is_longer_than_a_caption() -> None:
    assert find_problem(CONTEXT, "stop", CONTEXT_LIMITS) is None
    assert find_problem("A dog runs on the beach.", "stop", CONTEXT_LIMITS) == "too short"


@pytest.mark.parametrize(
    "text",
    [
        "  A dog runs.\n",
        '"A dog runs."',
        "\u201cA dog runs.\u201d",
        "Caption: A dog runs.",
        'Caption: "A dog runs."',
        "ASSISTANT: A dog runs.",
        "Revised caption: A dog runs.",
        "Sure! A dog runs.",
        "Certainly. A dog runs.",
        "Sure, here is the caption: A dog runs.",
        'Here\'s a caption for the photograph:\n\n"A dog runs."',
        "A dog runs.</s>",
        "A dog runs. ###",
        "A dog\nruns.",
    ],
)
def test_harmless_additions_are_removed(text: str) -> None:
    assert clean_answer(text) == "A dog runs."


@pytest.mark.parametrize(
    "text",
    [
        "Caption:",
        '"A dog" and "a cat"',
        "Okay",
        "- a dog\n- a cat",
        "A sure thing: a dog.",
        "Sure, a dog runs. It barks.",
    ],
)
def test_what_is_not_an_addition_stays(text: str) -> None:
    assert clean_answer(text) == text


ANYTHING = st.one_of(
    st.text(max_size=80),
    st.lists(
        st.sampled_from([*GOOD.split(), "I", "-", "\n", '"', "Caption:", "{", "Group", "3:"])
    ).map(" ".join),
    st.text(alphabet=st.characters(codec=None), max_size=20),
)


@given(ANYTHING, st.sampled_from(["stop", "length", ""]))
def test_no_text_raises(text: str, finish_reason: str) -> None:
    cleaned = clean_answer(text)
    assert cleaned == cleaned.strip()
    result = find_problem(cleaned, finish_reason, CAPTION_LIMITS, word_runs(GOOD))
    assert result is None or isinstance(result, str)
    assert finish_reason == "stop" or result is not None


@pytest.mark.parametrize("unit", ["a", "- ", "1. ", "[", '{"', "<", "**", "here is ", "a. ", "I "])
def test_long_texts_take_no_time(unit: str) -> None:
    text = unit * 40_000
    assert timeit.timeit(lambda: problem(text), number=1) < 1.0
