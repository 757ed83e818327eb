"""Our questions say what they ask about; names of regions follow the protocol."""

from __future__ import annotations

import pytest

from glamm_jax.text import questions


@pytest.mark.parametrize("num_regions", [1, 2, 5])
def test_every_region_question_mentions_each_region_once(num_regions):
    for asked in (questions.REGION_QUESTIONS, questions.REGION_GROUP_QUESTIONS):
        for draw in range(len(asked)):
            question = questions.format_question(asked, draw, num_regions=num_regions)
            assert question.count("<bbox>") == num_regions
            assert "{" not in question


def test_regions_are_named_as_the_checkpoints_know_them():
    assert questions.name_regions(1) == "region1 <bbox>"
    assert questions.name_regions(2) == "region1 <bbox>,region2 <bbox>,"
    asked = questions.format_question(["Describe {regions}."], 0, num_regions=1, first_region=3)
    assert asked == "Describe region3 <bbox>."


def test_segmentation_questions_name_the_thing_and_draws_wrap_around():
    asked = questions.SEGMENTATION_QUESTIONS
    drawn = [
        questions.format_question(asked, draw, name="red bus") for draw in range(2 * len(asked))
    ]
    assert all("red bus" in question for question in drawn)
    assert drawn[: len(asked)] == drawn[len(asked) :]
    assert len(set(drawn)) == len(asked)


def test_the_instruction_keeps_its_five_spaces():
    assert "interleaved" + 5 * " " + "segmentation" in questions.GCG_INSTRUCTION


def test_captions_do_not_ask_for_masks_and_grounded_ones_do():
    assert not any("mask" in question for question in questions.CAPTION_QUESTIONS)
    assert all("mask" in question for question in questions.GCG_QUESTIONS)
