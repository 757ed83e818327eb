"""A card of a conversation: special tokens have the colour of their mask or box."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.report.conversation_cards import conversation_card
from glamm_jax.report.html_page import Card
from glamm_jax.text.questions import SEGMENTATION_QUESTIONS
from glamm_jax.types import Example

HEIGHT, WIDTH = 10, 20


def _card(*turns: str, masks: int = 0, boxes: list[list[float]] | None = None) -> Card:
    reference_masks = np.zeros((masks, HEIGHT, WIDTH), np.uint8)
    for i in range(masks):
        reference_masks[i, i] = 1 + i  # where polygons overlap a mask counts 2
    example = Example(
        np.zeros((HEIGHT, WIDTH, 3), np.uint8),
        turns,
        None if boxes is None else np.array(boxes, np.float32),
        reference_masks if masks else None,
        *("gcg", "somewhere", "x"),
    )
    return conversation_card(example)


def _marked(card: Card) -> list[list[tuple[str, int, bool]]]:
    return [
        [(line.text[mark.start : mark.end], mark.colour, mark.is_token) for mark in line.marks]
        for line in card.lines
    ]


def test_a_phrase_and_its_token_have_the_colour_of_the_mask() -> None:
    card = _card("What?", "<p> A dog </p> [SEG] has <p> a ball </p> [SEG].", masks=2)
    assert [line.text for line in card.lines] == ["What?", "A dog [SEG] has a ball [SEG]."]
    phrases = [("A dog", 0, False), ("[SEG]", 0, True), ("a ball", 1, False), ("[SEG]", 1, True)]
    assert _marked(card) == [[], phrases]
    assert [None if mask is None else np.flatnonzero(mask.any(1)) for mask in card.masks] == [0, 1]
    assert [line.speaker for line in card.lines] == ["user", "GLaMM"]


def test_tokens_without_phrases_are_counted_over_the_turns() -> None:
    card = _card("The dog?", "It is [SEG].", "The ball?", "Sure, [SEG].", masks=2)
    assert _marked(card) == [[], [("[SEG]", 0, True)], [], [("[SEG]", 1, True)]]


@pytest.mark.parametrize("question", SEGMENTATION_QUESTIONS)
def test_the_name_in_a_question_has_the_colour_of_its_mask(question: str) -> None:
    first, second = (question.format(name=name) for name in ("a dog (old)", "the ball"))
    card = _card(first, "It is [SEG].", second, "[SEG].", masks=2)
    first_marks, _, second_marks, _ = _marked(card)
    assert first_marks == [("a dog (old)", 0, False)]
    assert second_marks == [("the ball", 1, False)]
    assert _marked(_card(first, "I cannot.")) == [[], []]


def test_phrases_of_a_question_have_the_colours_of_the_answer() -> None:
    card = _card("Where is <p> it </p> on <p> that </p>?", "<p> it </p> [SEG], [SEG].", masks=2)
    question, answer = _marked(card)
    assert question == [("it", 0, False), ("that", 1, False)]
    assert answer == [("it", 0, False), ("[SEG]", 0, True), ("[SEG]", 1, True)]


def test_equal_boxes_have_one_colour() -> None:
    left, right = [0.0, 0.0, 0.5, 1.0], [0.5, 0.2, 1.0, 1.0]
    card = _card(
        "What do region1 <bbox>,region2 <bbox>, show?",
        "Two.",
        "And region1 <bbox>?",
        "One.",
        boxes=[left, right, right],
    )
    first_marks, _, second_marks, _ = _marked(card)
    first, second = [("region1", 0, False), ("<bbox>", 0, True)], [("region2", 1, False)]
    assert first_marks == [*first, *second, ("<bbox>", 1, True)]
    assert second_marks == [("region1", 1, False), ("<bbox>", 1, True)]
    assert card.boxes_xyxy_pixel == [(0, 0, 10, 10), (10, 2, 20, 10)]


def test_boxes_have_the_colours_after_those_of_masks() -> None:
    card = _card("What is <bbox>?", "It is [SEG].", masks=1, boxes=[[0.0, 0.0, 1.0, 1.0]])
    assert _marked(card) == [[("<bbox>", 1, True)], [("[SEG]", 0, True)]]
    assert card.boxes_xyxy_pixel == [None, (0, 0, 20, 10)]
    assert card.title == "x (20 x 10)"
