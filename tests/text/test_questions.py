"""Question templates name their subject; names of regions follow the protocol."""

from __future__ import annotations

import pytest

from glamm_jax.text import questions


@pytest.mark.parametrize("num_regions", [1, 2, 5])
def test_every_region_question_mentions_each_region_once(num_regions):
    for templates in (questions.REGION_QUESTIONS, questions.REGION_GROUP_QUESTIONS):
        for index in range(len(templates)):
            question = questions.format_question(templates, index, num_regions=num_regions)
            assert question.count("<bbox>") == num_regions
            assert "{" not in question


def test_regions_have_the_names_that_the_checkpoints_were_trained_with():
    assert questions.name_regions(1) == "region1 <bbox>"
    assert questions.name_regions(2) == "region1 <bbox>,region2 <bbox>,"
    question = questions.format_question(["Describe {regions}."], 0, num_regions=1, first_region=3)
    assert question == "Describe region3 <bbox>."


def test_segmentation_questions_name_the_object_and_indices_wrap_around():
    templates = questions.SEGMENTATION_QUESTIONS
    number = len(templates)
    formatted = [questions.format_question(templates, i, name="red bus") for i in range(2 * number)]
    assert all("red bus" in question for question in formatted)
    assert formatted[:number] == formatted[number:]
    assert len(set(formatted)) == number


def test_the_instruction_keeps_its_five_spaces():
    assert "interleaved" + 5 * " " + "segmentation" in questions.GCG_INSTRUCTION


def test_captions_do_not_ask_for_masks_and_grounded_ones_do():
    assert not any("mask" in question for question in questions.CAPTION_QUESTIONS)
    assert all("mask" in question for question in questions.GCG_QUESTIONS)
