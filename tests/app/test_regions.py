"""Boxes of a question: by name, by place, added and removed."""

from __future__ import annotations

import pytest

from glamm_jax.app.regions import (
    Box,
    RegionError,
    add_mention,
    question_boxes,
    region_question,
    remove_mention,
)

BOXES: list[Box] = [(0.0, 0.0, 1.0, 1.0), (0.0, 0.0, 2.0, 2.0), (0.0, 0.0, 3.0, 3.0)]


@pytest.mark.parametrize(
    ("question", "numbers"),
    [
        ("What is there?", []),
        ("What is region1 <bbox>?", [1]),
        ("What is region3 <bbox>?", [3]),
        ("Compare <bbox> and <bbox>.", [1, 2]),
        ("Compare region2 <bbox> and region1 <bbox>.", [2, 1]),
        ("region1 <bbox>,region2 <bbox>,region3 <bbox>,", [1, 2, 3]),
    ],
)
def test_each_mention_has_a_box(question: str, numbers: list[int]) -> None:
    assert question_boxes(question, BOXES) == tuple(BOXES[number - 1] for number in numbers)


def test_missing_boxes_are_named() -> None:
    with pytest.raises(RegionError, match=r"there is no box\. Draw one"):
        question_boxes("What is <bbox>?", [])
    with pytest.raises(RegionError, match="region 2, but there is 1 box"):
        question_boxes("What is region2 <bbox>?", BOXES[:1])
    with pytest.raises(RegionError, match="region 4, but there are 3 boxes"):
        question_boxes("<bbox> <bbox> <bbox> <bbox>", BOXES)
    with pytest.raises(RegionError, match="region 0"):
        question_boxes("region0 <bbox>", BOXES)


def test_drawing_fills_an_empty_question_with_the_preset() -> None:
    one = add_mention("", 1)
    assert one == region_question(1)
    assert "region1 <bbox>" in one
    two = add_mention(one, 2)
    assert two == region_question(2)
    assert question_boxes(two, BOXES) == tuple(BOXES[:2])
    assert remove_mention(two, 1, 2) == one
    assert remove_mention(one, 1, 1) == ""


def test_drawing_appends_to_a_question_of_ones_own() -> None:
    question = add_mention("Who is this?", 1)
    assert question == "Who is this? region1 <bbox>"
    assert add_mention(question, 2) == "Who is this? region1 <bbox> region2 <bbox>"


def test_removing_renumbers_the_boxes_behind() -> None:
    question = "Is region1 <bbox> left of region2 <bbox> and region3 <bbox>?"
    assert remove_mention(question, 2, 3) == "Is region1 <bbox> left of and region2 <bbox>?"
    assert remove_mention("Compare <bbox> and <bbox>.", 1, 2) == "Compare and <bbox>."
    assert remove_mention("No box here.", 1, 1) == "No box here."
