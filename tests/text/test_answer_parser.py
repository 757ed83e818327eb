"""Answers are parsed as the original parses them, with the span and masks of every phrase."""

from __future__ import annotations

import json
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glamm_jax.text.answer_parser import last_answer, match_masks, parse_answer, stable_text
from glamm_jax.text.special_tokens import SEG
from glamm_jax.text.tokenizer import Tokenizer, load_tokenizer


def test_recorded_answers_have_the_recorded_text_and_phrases(goldens):
    path = goldens / "conversations" / "inference_golden.json"
    for output in json.loads(path.read_text("utf-8"))["outputs"]:
        # The parity tool compares the decoded ids; this is the recorded text itself.
        generated = last_answer(output["generated_text"].replace("[SEG].", "[SEG] ."))
        answer = parse_answer(generated, keep_spaces=True)
        assert answer.text.replace(" ,", ",") == output["gcg"]["cleaned"].replace(" ,", ",")
        assert [phrase.text for phrase in answer.phrases] == output["gcg"]["phrases"]


def test_a_phrase_has_its_span_in_the_clean_text_and_its_mask():
    answer = parse_answer("<p> A brown dog </p> [SEG] on <p> green grass </p> [SEG].</s>")
    assert answer.text == "A brown dog on green grass."
    assert [answer.text[p.start : p.end] for p in answer.phrases] == ["A brown dog", "green grass"]
    assert [phrase.segs for phrase in answer.phrases] == [(0,), (1,)]
    assert answer.problems == ()


def test_equal_phrases_have_spans_of_their_own():
    answer = parse_answer("<p> a cat </p> [SEG] and <p> a cat </p> [SEG]")
    assert [(p.start, p.end) for p in answer.phrases] == [(0, 5), (10, 15)]


def test_several_masks_of_one_phrase_are_kept_and_reported():
    answer = parse_answer("<p> two cats </p> [SEG] [SEG]")
    assert answer.phrases[0].segs == (0, 1)
    assert answer.problems == ("phrase 0 'two cats' has 2 [SEG]",)


def test_an_answer_of_the_segmentation_tasks_needs_no_phrase():
    answer = parse_answer("It is [SEG] .")
    assert (answer.unassigned_segs, answer.seg_positions, answer.problems) == ((0,), (5,), ())


@pytest.mark.parametrize(
    ("generated", "joined", "original"),
    [
        ("<p> A dog </p> [SEG].", "A dog.", "A dog ."),
        ("<p> A dog </p> [SEG], <p> a cat </p> [SEG]!?", "A dog, a cat!?", "A dog , a cat !?"),
        ("about .5 of it", "about .5 of it", "about .5 of it"),
        (". a", ". a", ". a"),
    ],
)
def test_a_stop_follows_its_word_without_a_space(generated, joined, original):
    answer = parse_answer(generated)
    assert (answer.text, parse_answer(generated, keep_spaces=True).text) == (joined, original)
    for phrase in answer.phrases:
        assert answer.text[phrase.start : phrase.end] == phrase.text


def test_only_the_last_turn_of_a_conversation_is_read():
    decoded = "<s> USER: <p> x </p> ASSISTANT: yes</s>"
    assert parse_answer(last_answer(decoded)).text == "yes"


def test_an_answer_is_parsed_completely():
    assert parse_answer("ASSISTANT: <p> a\nb </p> [SEG]").text == "ASSISTANT: a b"


@pytest.mark.parametrize(
    ("generated", "problem"),
    [
        ("<p> a <p> b </p> [SEG]", "<p> at 0 is not closed before the next one at 6"),
        ("a </p> [SEG]", "</p> at 2 has no <p> before it"),
        ("<p> a [SEG] b", "<p> at 0 is never closed"),
        ("<p> a [SEG] </p>", "[SEG] at 6 is inside a phrase"),
        ("<p> </p> [SEG]", "phrase 0 is empty"),
        ("<p> a </p> b", "phrase 0 'a' has no [SEG]"),
        ("[SEG] <p> a </p> [SEG]", "[SEG] 0 belongs to no phrase"),
        ("Here [SEG].", "[SEG] 0 belongs to no phrase"),
    ],
)
def test_malformed_answers_are_parsed_as_far_as_possible(generated, problem):
    assert problem in parse_answer(generated).problems


def test_masks_of_the_prompt_come_before_those_of_the_answer():
    answer = parse_answer("<p> a </p> [SEG] <p> b </p> [SEG]")
    assert match_masks(answer, 2) == ((0, 1), ())
    assert match_masks(answer, 5) == ((3, 4), ())
    assert match_masks(answer, 1) == ((0, None), ("the answer has 2 [SEG] and 1 masks",))


fragments = st.lists(
    st.one_of(
        st.sampled_from(
            ["<p>", "</p>", "[SEG]", "<", ">", "[S<x>EG]", "'", " ", "\n", "ASSISTANT: "]
        ),
        st.text(max_size=5),
    ),
    max_size=12,
).map("".join)


@settings(max_examples=300)
@given(fragments)
def test_any_text_is_parsed_and_cleaned_as_the_original_cleans_it(generated):
    raw = last_answer(generated)
    answer = parse_answer(raw, keep_spaces=True)
    # The original's cleaning; the parser's own also keeps track of the characters' sources.
    plain = " ".join(re.sub(r"<.*?>", "", raw).replace("[SEG]", "").split()).strip("'").strip()
    assert answer.text == plain
    assert [p.text for p in answer.phrases] == [
        phrase.strip() for phrase in re.findall(r"<p>(.*?)</p>", raw)
    ]
    assert answer.num_segs == raw.count("[SEG]")
    assigned = [k for phrase in answer.phrases for k in phrase.segs]
    assert sorted([*assigned, *answer.unassigned_segs]) == list(range(answer.num_segs))
    assert all(0 <= p.start <= p.end <= len(answer.text) for p in answer.phrases)


@given(
    st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1, max_size=8),
    st.integers(0, 4),
)
def test_a_clean_phrase_has_the_span_of_its_text(word, before):
    answer = parse_answer(f"{'x ' * before}<p> {word} </p> [SEG] y")
    phrase = answer.phrases[0]
    assert answer.text[phrase.start : phrase.end] == phrase.text == word


@pytest.fixture(scope="module")
def tokenizer(goldens) -> Tokenizer:
    return load_tokenizer(goldens / "tokenizer")


@settings(max_examples=200)
@given(fragments, st.lists(st.integers(0, 806), max_size=12))
def test_stable_text_does_not_change_when_the_answer_grows(tokenizer, generated, random_ids):
    ids = [*tokenizer.encode(f"{generated} do n't ' say ", add_special=False), *random_ids]
    complete = parse_answer(tokenizer.decode(ids, skip_control=True)).text
    for count in range(len(ids)):
        assert complete.startswith(stable_text(tokenizer.decode(ids[:count], skip_control=True)))


def test_all_but_the_last_word_is_stable():
    assert stable_text("<p> A brown dog </p> [SEG] on <p") == "A brown dog"


@pytest.mark.parametrize("unit", ["<p>", "<", "<p>a</p> [SEG]"])
def test_long_answers_take_linear_time(unit):
    start = time.process_time()
    answer = parse_answer(unit * 10_000)
    stable_text(unit * 10_000)
    assert time.process_time() - start < 5  # quadratic: ten seconds and more
    assert answer.num_segs == 10_000 * unit.count(SEG)
