"""LLaVA-Instruct: turns, the image token, and conversations whose turns do not alternate."""

from __future__ import annotations

import pytest

from glamm_jax.data.sources.conversation_turns import (
    EXTRA_IMAGE,
    NO_QUESTION,
    UNANSWERED,
    WRONG_SPEAKER,
)
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    EMPTY_TEXT,
    MISSING_IMAGE,
    NO_ANNOTATION,
    RESERVED_TOKEN,
    SourceError,
)
from glamm_jax.data.sources.llava_instruct import DATASETS
from tests.data.sources.small_datasets import FIXTURES, image_bytes, kinds, read_all, write

LLAVA = DATASETS["llava_instruct_150k"]
GOOD = ["<image>\nWhat is it?", "A dog."]


def conversation_of(*turns, first="human"):
    """Turns of alternating speakers; a turn that is not a text is used as it is."""
    speakers = ["human", "gpt"] if first == "human" else ["gpt", "human"]
    return [
        {"from": speakers[i % 2], "value": turn} if isinstance(turn, str) else turn
        for i, turn in enumerate(turns)
    ]


def build(root, *conversations, name="llava_instruct_150k"):
    """Read an image p.jpg with these conversations."""
    write(root / "coco_2017" / "train2017" / "p.jpg", image_bytes())
    entries = [{"id": "p", "image": "p.jpg", "conversations": items} for items in conversations]
    write(root / "llava_dataset" / f"{name}.json", entries)
    return read_all(DATASETS[name](root, "train"))["p.jpg"]


def turns(result):
    return [item.turns for item in result.record.annotations] if result.record else []


def test_every_conversation_of_the_fixtures_is_read_and_its_image_mark_taken_out():
    results = read_all(LLAVA(FIXTURES, "train"))
    assert [turns(result) for result in results.values()] == [
        [("What is shown?", "A test pattern.", "Which colours?", "Many colours.")],
        [("Describe it.", "Blocks and noise.")],
    ]
    assert [kinds(result) for result in results.values()] == [{}, {NO_QUESTION: 1}]


def test_quirk_38_the_number_of_pictures_is_known():
    assert len(LLAVA(FIXTURES, "train").keys) == 2


@pytest.mark.parametrize("name", list(DATASETS))
def test_all_conversations_about_a_picture_are_one_record(tmp_path, name):
    result = build(
        tmp_path, conversation_of(*GOOD), conversation_of("Where?\n<image>", "Here."), name=name
    )
    assert turns(result) == [("What is it?", "A dog."), ("Where?", "Here.")]
    record = result.record
    assert (record.image_id, record.source, record.split) == ("p", name, "train")
    assert not result.defects


@pytest.mark.parametrize("question", ["<image>\nWho?", "Who?\n<image>", " <image> Who? ", "Who?"])
def test_the_mark_of_the_image_is_taken_out_wherever_it_stands(tmp_path, question):
    assert turns(build(tmp_path, conversation_of(question, "A dog."))) == [("Who?", "A dog.")]


def test_turns_without_the_mark_stay_as_they_are(tmp_path):
    assert turns(build(tmp_path, conversation_of(" Who? ", "A dog.\n"))) == [(" Who? ", "A dog.\n")]


def test_a_mark_in_a_later_turn_is_no_second_image(tmp_path):
    result = build(tmp_path, conversation_of(*GOOD, "And <image> here?", "A cat."))
    assert turns(result) == [("What is it?", "A dog.", "And  here?", "A cat.")]
    assert kinds(result) == {EXTRA_IMAGE: 1}


@pytest.mark.parametrize(
    ("conversation", "is_read", "expected"),
    [
        (conversation_of("Hello.", *GOOD, first="gpt"), True, {NO_QUESTION: 1}),
        (conversation_of(*GOOD, "Sure?"), True, {UNANSWERED: 1}),
        ([*conversation_of(*GOOD), *conversation_of("No.", first="gpt")], True, {WRONG_SPEAKER: 1}),
        ([*conversation_of(*GOOD), {"from": "system", "value": "No."}], True, {WRONG_SPEAKER: 1}),
        ([*conversation_of(*GOOD), {"from": ["human"], "value": "No."}], True, {WRONG_SPEAKER: 1}),
        ([*conversation_of(*GOOD), {"value": "No."}], True, {WRONG_SPEAKER: 1}),
        ([*conversation_of(*GOOD), {}], True, {WRONG_SPEAKER: 1}),
        ([*conversation_of(*GOOD), None], True, {BROKEN_ENTRY: 1, WRONG_SPEAKER: 1}),
        (conversation_of(*GOOD, {"from": "human", "value": 7}), True, {EMPTY_TEXT: 1}),
        (conversation_of(*GOOD, "Sure?", ""), True, {EMPTY_TEXT: 1, UNANSWERED: 1}),
        (conversation_of("<image>", "A dog."), False, {EMPTY_TEXT: 1}),
        (conversation_of("What?"), False, {UNANSWERED: 1}),
        (conversation_of("Hello.", first="gpt"), False, {NO_QUESTION: 1}),
        ([], False, {NO_ANNOTATION: 1}),
        (None, False, {NO_ANNOTATION: 1}),
        ("What?", False, {BROKEN_ENTRY: 1}),
        ({"from": "human"}, False, {BROKEN_ENTRY: 1}),
    ],
    ids=str,
)
def test_what_stands_before_the_break_is_kept(tmp_path, conversation, is_read, expected):
    result = build(tmp_path, conversation)
    assert turns(result) == ([("What is it?", "A dog.")] if is_read else [])
    assert kinds(result) == expected


def test_a_broken_conversation_does_not_cost_the_others(tmp_path):
    result = build(tmp_path, [7], conversation_of(*GOOD))
    assert turns(result) == [("What is it?", "A dog.")]


@pytest.mark.parametrize("entry", [None, 7, [], {}, {"image": 3}, {"image": ""}], ids=str)
def test_an_entry_that_names_no_picture_is_named(tmp_path, entry):
    write(tmp_path / "llava_dataset" / "llava_instruct_150k.json", [entry])
    (result,) = read_all(LLAVA(tmp_path, "train")).values()
    assert kinds(result) == {BROKEN_ENTRY: 1}


def test_missing_pictures_files_and_splits_are_named(tmp_path):
    with pytest.raises(SourceError, match=r"contains no llava_dataset/llava_instruct_150k\.json"):
        LLAVA(tmp_path, "train")
    with pytest.raises(SourceError, match="no split 'val'; available: train"):
        LLAVA(FIXTURES, "val")
    write(tmp_path / "llava_dataset" / "llava_instruct_150k.json", {"data": []})
    with pytest.raises(SourceError, match="must hold a list of images"):
        LLAVA(tmp_path, "train")
    entry = {"image": "q.jpg", "conversations": conversation_of(*GOOD)}
    write(tmp_path / "llava_dataset" / "llava_instruct_150k.json", [entry])
    (result,) = read_all(LLAVA(tmp_path, "train")).values()
    assert kinds(result) == {MISSING_IMAGE: 1}


@pytest.mark.parametrize("token", ["[SEG]", "<bbox>", "</s>", "<p>", "<im_start>"])
def test_a_conversation_that_training_drops_is_a_defect(tmp_path, token):
    result = build(tmp_path, conversation_of("Who?", f"Me {token}."), conversation_of(*GOOD))
    assert turns(result) == [("What is it?", "A dog.")]
    (defect,) = result.defects
    assert defect.kind == RESERVED_TOKEN
    assert defect.where.endswith(
        f"entry 0: turn 1 contains {token}, a token of the model; remove or rename it"
    )


@pytest.mark.parametrize("name", ["p.jpg", "train2017/p.jpg", "coco/train2017/p.jpg"])
def test_folders_of_mix665k_in_front_of_a_name_are_left_out(tmp_path, name):
    write(tmp_path / "coco_2017" / "train2017" / "p.jpg", image_bytes())
    entry = {"id": "p", "image": name, "conversations": conversation_of(*GOOD)}
    others = {"image": "gqa/images/p.jpg", "conversations": conversation_of(*GOOD)}
    write(tmp_path / "llava_dataset" / "llava_instruct_150k.json", [entry, others])
    results = read_all(LLAVA(tmp_path, "train"))
    assert turns(results[name]) == [("What is it?", "A dog.")]
    assert kinds(results["gqa/images/p.jpg"]) == {MISSING_IMAGE: 1}
