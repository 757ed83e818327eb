"""LLaVA-Instruct: turns, the image's mark, and conversations that lose their order."""

from __future__ import annotations

import pytest

from glamm_jax.data.sources.llava_instruct import (
    DATASETS,
    EXTRA_IMAGE,
    NO_QUESTION,
    UNANSWERED,
    WRONG_SPEAKER,
)
from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    EMPTY_TEXT,
    MISSING_IMAGE,
    NO_ANNOTATION,
    SourceError,
)
from tests.data.sources.small import FIXTURES, kinds, picture, read_all, write

LLAVA = DATASETS["llava_instruct_150k"]
GOOD = ["<image>\nWhat is it?", "A dog."]


def said(*turns, first="human"):
    """Turns of two speakers; one that is no text stands as it is."""
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [
        {"from": speakers[i % 2], "value": turn} if isinstance(turn, str) else turn
        for i, turn in enumerate(turns)
    ]


def build(root, *conversations, name="llava_instruct_150k"):
    """What a picture p.jpg with these conversations gives."""
    write(root / "coco_2017" / "train2017" / "p.jpg", picture())
    entries = [{"id": "p", "image": "p.jpg", "conversations": each} for each in conversations]
    write(root / "llava_dataset" / f"{name}.json", entries)
    return read_all(DATASETS[name](root, "train"))["p.jpg"]


def turns(found):
    return [each.turns for each in found.record.annotations] if found.record else []


def test_every_conversation_of_the_fixtures_is_read_and_its_image_mark_taken_out():
    found = read_all(LLAVA(FIXTURES, "train"))
    assert [turns(each) for each in found.values()] == [
        [("What is shown?", "A test pattern.", "Which colours?", "Many colours.")],
        [("Describe it.", "Blocks and noise.")],
    ]
    assert [kinds(each) for each in found.values()] == [{}, {NO_QUESTION: 1}]


def test_trap_38_the_number_of_pictures_is_known():
    assert len(LLAVA(FIXTURES, "train").keys) == 2


@pytest.mark.parametrize("name", list(DATASETS))
def test_all_conversations_about_a_picture_are_one_record(tmp_path, name):
    found = build(tmp_path, said(*GOOD), said("Where?\n<image>", "Here."), name=name)
    assert turns(found) == [("What is it?", "A dog."), ("Where?", "Here.")]
    record = found.record
    assert (record.image_id, record.source, record.split) == ("p", name, "train")
    assert not found.defects


@pytest.mark.parametrize("question", ["<image>\nWho?", "Who?\n<image>", " <image> Who? ", "Who?"])
def test_the_mark_of_the_image_is_taken_out_wherever_it_stands(tmp_path, question):
    assert turns(build(tmp_path, said(question, "A dog."))) == [("Who?", "A dog.")]


def test_turns_without_the_mark_stay_as_they_are(tmp_path):
    assert turns(build(tmp_path, said(" Who? ", "A dog.\n"))) == [(" Who? ", "A dog.\n")]


def test_a_mark_in_a_later_turn_is_no_second_image(tmp_path):
    found = build(tmp_path, said(*GOOD, "And <image> here?", "A cat."))
    assert turns(found) == [("What is it?", "A dog.", "And  here?", "A cat.")]
    assert kinds(found) == {EXTRA_IMAGE: 1}


@pytest.mark.parametrize(
    ("conversation", "kept", "expected"),
    [
        (said("Hello.", *GOOD, first="gpt"), True, {NO_QUESTION: 1}),
        (said(*GOOD, "Sure?"), True, {UNANSWERED: 1}),
        ([*said(*GOOD), *said("No.", first="gpt")], True, {WRONG_SPEAKER: 1}),
        ([*said(*GOOD), {"from": "system", "value": "No."}], True, {WRONG_SPEAKER: 1}),
        ([*said(*GOOD), {"from": ["human"], "value": "No."}], True, {WRONG_SPEAKER: 1}),
        ([*said(*GOOD), {"value": "No."}], True, {WRONG_SPEAKER: 1}),
        ([*said(*GOOD), {}], True, {WRONG_SPEAKER: 1}),
        ([*said(*GOOD), None], True, {BROKEN_ENTRY: 1, WRONG_SPEAKER: 1}),
        (said(*GOOD, {"from": "human", "value": 7}), True, {EMPTY_TEXT: 1}),
        (said(*GOOD, "Sure?", ""), True, {EMPTY_TEXT: 1, UNANSWERED: 1}),
        (said("<image>", "A dog."), False, {EMPTY_TEXT: 1}),
        (said("What?"), False, {UNANSWERED: 1}),
        (said("Hello.", first="gpt"), False, {NO_QUESTION: 1}),
        ([], False, {NO_ANNOTATION: 1}),
        (None, False, {NO_ANNOTATION: 1}),
        ("What?", False, {BROKEN_ENTRY: 1}),
        ({"from": "human"}, False, {BROKEN_ENTRY: 1}),
    ],
    ids=str,
)
def test_what_stands_before_the_break_is_kept(tmp_path, conversation, kept, expected):
    found = build(tmp_path, conversation)
    assert turns(found) == ([("What is it?", "A dog.")] if kept else [])
    assert kinds(found) == expected


def test_a_broken_conversation_does_not_cost_the_others(tmp_path):
    found = build(tmp_path, [7], said(*GOOD))
    assert turns(found) == [("What is it?", "A dog.")]


@pytest.mark.parametrize("entry", [None, 7, [], {}, {"image": 3}, {"image": ""}], ids=str)
def test_an_entry_that_names_no_picture_is_named(tmp_path, entry):
    write(tmp_path / "llava_dataset" / "llava_instruct_150k.json", [entry])
    (found,) = read_all(LLAVA(tmp_path, "train")).values()
    assert kinds(found) == {BROKEN_ENTRY: 1}


def test_missing_pictures_files_and_splits_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"no llava_dataset/llava_instruct_150k\.json in it"):
        LLAVA(tmp_path, "train")
    with pytest.raises(SourceError, match="no split 'val'; there are train"):
        LLAVA(FIXTURES, "val")
    write(tmp_path / "llava_dataset" / "llava_instruct_150k.json", {"data": []})
    with pytest.raises(SourceError, match="a list of pictures is expected"):
        LLAVA(tmp_path, "train")
    entry = {"image": "q.jpg", "conversations": said(*GOOD)}
    write(tmp_path / "llava_dataset" / "llava_instruct_150k.json", [entry])
    (found,) = read_all(LLAVA(tmp_path, "train")).values()
    assert kinds(found) == {MISSING_IMAGE: 1}
