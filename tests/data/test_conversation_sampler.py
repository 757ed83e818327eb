"""What is asked of a record: every task, its draws, and the habits of the released training."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glamm_jax.config import tiny
from glamm_jax.config.experiment import ConversationConfig, ConversationTask
from glamm_jax.data import rle
from glamm_jax.data.annotation_rules import RESERVED_TOKEN, annotation_problem
from glamm_jax.data.collate import collate
from glamm_jax.data.conversation_sampler import (
    NO_ANNOTATION,
    NO_BOX,
    NO_MASK,
    OVERLAPPING,
    sample_conversations,
)
from glamm_jax.data.encode import encode_examples
from glamm_jax.data.record import TASKS, Annotation, Link, Record, Region, check_record
from glamm_jax.data.sources.dataset_files import ImageFile
from glamm_jax.data.sources.defects import DefectLog
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.text import questions
from glamm_jax.text.special_tokens import REGION, RESERVED_TOKENS, SEG
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import BatchShape, Example
from tests.small_experiment import TOKENIZER

HEIGHT, WIDTH = 12, 20
AS_IT_COMES = ConversationConfig(shuffle=False)
MODEL = tiny(base_vocab_size=800)
ROOM = BatchShape(tokens=600, targets=400, mask_height=HEIGHT, mask_width=WIDTH)


def runs(mask: np.ndarray) -> bytes:
    return rle.encode(mask)["counts"].encode("ascii")


def column(first: int, last: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, first:last] = True
    return mask


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (9, 90, 200)).save(stream, "PNG")
    return stream.getvalue()


def record_of(*annotations: Annotation) -> Record:
    """Four columns of five pixels; the second counts some twice, the last has no box."""
    made = [
        Region((5.0 * i, 0.0, 5.0 * i + 5, HEIGHT * 1.0), runs(column(5 * i, 5 * i + 5)))
        for i in range(4)
    ]
    made[1] = replace(made[1], overlap=runs(column(5, 7)))
    made[3] = replace(made[3], box_xyxy_pixel=None)
    return Record(picture(), "a", "test", "train", HEIGHT, WIDTH, tuple(made), annotations)


def one(
    record: Record, task: Any, asking: ConversationConfig = AS_IT_COMES, **lots: int
) -> Example:
    (example,) = sample_conversations(record, (task,), asking, **lots).examples
    return example


TEXT = "A dog and a ball."
CAPTION = Annotation("gcg", TEXT, (Link(2, 10, 16), Link(0, 0, 5), Link(1, 0, 5)))


@pytest.mark.parametrize("task", ["referring", "semantic"])
def test_trap_41_at_most_three_are_asked_for_a_turn_and_a_mask_each(task: Any) -> None:
    said = [Annotation(task, f" Thing {i} ", (Link(i),)) for i in range(4)]
    example = one(record_of(*said), task)
    assert example.image.shape == (HEIGHT, WIDTH, 3)
    assert len(example.turns) == 6
    assert example.masks is not None
    for i, mask in enumerate(example.masks):
        assert f"thing {i}" in example.turns[2 * i]  # lower-cased, stripped
        assert example.turns[2 * i + 1] in questions.SEGMENTATION_ANSWERS
        assert (mask > 0).tolist() == column(5 * i, 5 * i + 5).tolist()
    assert len(one(record_of(*said), task, replace(AS_IT_COMES, max_turns=1)).turns) == 2


def test_trap_22_pixels_of_two_polygons_count_two_or_one() -> None:
    record = record_of(Annotation("referring", "it", (Link(1),)))
    for counted, sums in ((True, 5 + 2), (False, 5)):
        example = one(record, "referring", replace(AS_IT_COMES, count_overlaps=counted))
        assert example.masks is not None
        assert example.masks.sum() == sums * HEIGHT


def test_an_expression_of_several_regions_has_one_mask_and_one_of_none_an_empty_one() -> None:
    said = (Annotation("referring", "both", (Link(0), Link(2))), Annotation("referring", "none"))
    example = one(record_of(*said), "referring")
    assert example.masks is not None
    assert example.masks.sum(axis=(1, 2)).tolist() == [10 * HEIGHT, 0]


def test_a_grounded_caption_has_its_masks_in_the_order_of_the_text() -> None:
    example = one(record_of(CAPTION), "gcg")
    assert example.turns[1] == f"<p> A dog </p> {SEG} and <p> a ball </p> {SEG}."
    assert example.turns[0] in questions.GCG_QUESTIONS
    assert example.masks is not None
    assert example.masks.sum(axis=(1, 2)).tolist() == [(10 + 2) * HEIGHT, 5 * HEIGHT]


def test_phrase_grounding_gives_the_caption_and_asks_for_its_masks() -> None:
    example = one(record_of(CAPTION), "grounding")
    assert "<p> A dog </p> and <p> a ball </p>." in example.turns[0]
    assert SEG not in example.turns[0]
    assert example.turns[1] == f"<p> A dog </p> {SEG}, <p> a ball </p> {SEG}."
    np.testing.assert_array_equal(example.masks, one(record_of(CAPTION), "gcg").masks)


def test_trap_40_only_what_overlaps_is_cut_and_what_is_empty_goes_with_its_mask() -> None:
    spans = (Link(2, 10, 16), Link(0, 0, 9), Link(1, 6, 9), Link(3, 10, 12))
    drawn = sample_conversations(record_of(Annotation("gcg", TEXT, spans)), ("gcg",), AS_IT_COMES)
    (example,) = drawn.examples
    # Of the two that begin at 10 the shorter comes first, and nothing is left of it.
    assert example.turns[1] == f"<p> A dog </p> {SEG} <p> and </p> {SEG} <p> a ball </p> {SEG}."
    assert drawn.notes == (f"gcg: {OVERLAPPING}",) * 2
    assert example.masks is not None
    assert [int(np.flatnonzero(mask[0])[0]) for mask in example.masks] == [0, 5, 10]


def test_regions_are_asked_one_by_one_with_their_boxes() -> None:
    said = [Annotation("region", f"thing {i}", (Link(i),)) for i in range(4)]
    drawn = sample_conversations(record_of(*said), ("region",), AS_IT_COMES)
    (example,) = drawn.examples
    assert drawn.notes == (f"region: {NO_BOX}",)
    assert example.turns[1::2] == ("thing 0", "thing 1", "thing 2")
    asked = [f"region{i + 1} {REGION}" in turn for i, turn in enumerate(example.turns[::2])]
    assert asked == [True] * 3
    assert example.boxes_xyxy_unit is not None
    assert example.boxes_xyxy_unit.tolist() == [[i / 4, 0, (i + 1) / 4, 1] for i in range(3)]
    assert example.masks is None


def test_trap_42_at_most_ten_regions_with_their_boxes() -> None:
    said = [Annotation("region", f"thing {i}", (Link(i % 3),)) for i in range(13)]
    example = one(record_of(*said), "region")
    assert len(example.turns) == 20
    assert example.boxes_xyxy_unit is not None
    assert len(example.boxes_xyxy_unit) == 10


def test_trap_16_a_group_is_asked_first_and_has_a_box_for_each_mention() -> None:
    said = [Annotation("region", f"thing {i}", (Link(i),)) for i in range(3)]
    group = Annotation("region", "Two things.", (Link(0), Link(2)))
    example = one(record_of(*said, group), "region")
    assert f"region1 {REGION},region2 {REGION}," in example.turns[0]
    assert example.turns[1::2] == ("Two things.", "thing 0", "thing 2")
    boxes = example.boxes_xyxy_unit
    assert boxes is not None
    assert boxes[:, 0].tolist() == [0, 0.5, 0, 0.5]
    assert sum(turn.count(REGION) for turn in example.turns) == len(boxes)
    assert one(record_of(group), "region").turns[1:] == ("Two things.",)


def test_masks_of_a_large_picture_are_read_at_the_size_of_a_batch() -> None:
    record = record_of(CAPTION)
    whole = one(record, "gcg").masks
    drawn = sample_conversations(record, ("gcg",), AS_IT_COMES, max_mask_size=(6, 30))
    small = drawn.examples[0].masks
    assert whole is not None and small is not None
    assert small.shape == (2, 6, 10)
    np.testing.assert_array_equal(small, whole[:, 1::2, 1::2])
    assert small.max() == 2  # what is counted twice stays so


def test_captions_and_conversations_are_taken_as_they_are() -> None:
    turns = ("What is it?", "A dog.", "Sure?", "Yes.")
    record = record_of(Annotation("caption", "A dog."), Annotation("vqa", turns=turns))
    assert one(record, "vqa").turns == turns
    caption = one(record, "caption")
    assert caption.turns[0] in questions.CAPTION_QUESTIONS
    assert caption.turns[1] == "A dog."
    assert caption.masks is caption.boxes_xyxy_unit is None


def test_what_a_record_cannot_be_asked_is_said() -> None:
    boxed = replace(record_of().regions[0], mask=None)
    said = (Annotation("referring", "it", (Link(0),)), Annotation("caption", "Blue."))
    record = replace(record_of(*said), regions=(boxed,))
    drawn = sample_conversations(record, ("referring", "vqa", "caption"), AS_IT_COMES)
    assert [example.task for example in drawn.examples] == ["caption"]
    expected = (f"referring: {NO_MASK}", f"referring: {NO_ANNOTATION}", f"vqa: {NO_ANNOTATION}")
    assert drawn.notes == expected


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("token", RESERVED_TOKENS)
def test_training_drops_the_texts_that_a_check_reports(task: Any, token: str) -> None:
    def of(text: str) -> Annotation:
        turns = ("Who?", text) if task == "vqa" else ()
        return Annotation(task, "" if turns else text, () if turns else (Link(0, 0, 1),), turns)

    usable, dropped = of("a dog"), of(f"a dog {token}")
    assert annotation_problem(usable) is None
    assert f"contains {token}" in str(annotation_problem(dropped))
    sampled = sample_conversations(record_of(dropped, usable), (task,), AS_IT_COMES)
    assert sampled.notes == (f"{task}: {RESERVED_TOKEN}",)
    (conversation,) = sampled.examples
    assert token not in conversation.turns[-1].replace("<p> a </p> [SEG]", "").replace("[SEG]", "")
    log = DefectLog("line 1")
    builder = RecordBuilder(ImageFile(picture(), HEIGHT, WIDTH), log)
    for annotation in (dropped, usable):
        if task == "vqa":
            builder.add_conversation(annotation.turns, "here")
        else:
            builder.add_annotation(task, annotation.text, (), "here")
    (defect,) = log.defects
    assert (defect.kind, defect.where.split(": ")[:2]) == ("reserved token", ["line 1", "here"])
    record = builder.build("a", "test", "train").record
    assert record is not None
    assert len(record.annotations) == 1


def test_lots_follow_from_seed_epoch_record_and_task_and_from_nothing_else() -> None:
    said = [Annotation("referring", f"thing {i}", (Link(i % 4),)) for i in range(9)]
    record, asking = record_of(*said), ConversationConfig()
    first = one(record, "referring", asking)
    again = sample_conversations(record, ("gcg", "referring"), asking).examples[0]
    assert again.turns == first.turns
    others = [
        one(record, "referring", asking, seed=1),
        one(record, "referring", asking, epoch=1),
        one(replace(record, image_id="b"), "referring", asking),
    ]
    assert all(other.turns != first.turns for other in others)
    seen = {turn for i in range(40) for turn in one(record, "referring", asking, epoch=i).turns}
    assert all(any(f"thing {i}" in text for text in seen) for i in range(9))
    assert len({text for text in seen if "thing 8" in text}) > 2  # several ways to ask


def test_other_questions_and_answers_take_the_place_of_ours() -> None:
    asking = ConversationConfig(questions=("Where is {name}?",), answers=("Here: [SEG]",))
    example = one(record_of(Annotation("referring", "it", (Link(0),))), "referring", asking)
    assert example.turns == ("Where is it?", "Here: [SEG]")


# Texts with the model's own tokens, spans of everything, in any order, over one another.
WORDS = st.sampled_from(
    ["a dog", " ", "[SEG]", "<p>", "</p>", "<bbox>", "<image>", "</s>", "{name}", "x" * 50_000]
)
TEXTS = st.lists(WORDS, min_size=1, max_size=5).map("".join)
# Task, texts, and links to regions with the ends of their spans; plain, as `records.parts` are.
SAID = st.tuples(
    st.sampled_from(TASKS),
    st.tuples(TEXTS, TEXTS),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 7), st.integers(0, 7)), max_size=4),
)


def said_of(task: Any, texts: tuple[str, str], places: list[tuple[int, int, int]]) -> Annotation:
    """What `check_record` lets pass: spans that are none are the whole text."""
    if task == "vqa":
        return Annotation(task, turns=texts)
    links = (
        Link(region, start, end) if start < end <= len(texts[0]) else Link(region)
        for region, start, end in places
    )
    return Annotation(task, texts[0], tuple(links))


@given(st.lists(SAID, max_size=5), st.integers(0, 9))
@settings(max_examples=150)
def test_whatever_a_record_says_is_prepared_or_its_loss_is_said(said, epoch):
    record = record_of(*(said_of(*each) for each in said))
    check_record(record)
    drawn = sample_conversations(
        record, get_args(ConversationTask), ConversationConfig(), epoch=epoch
    )
    sample, notes = encode_examples(drawn.examples, load_tokenizer(TOKENIZER), MODEL, ROOM)
    assert not any(RESERVED_TOKEN in note for note in notes)  # the sampler has left them out
    rows = len(sample.conversations) if sample else 0
    lost = sum(": dropped: " in note for note in notes)
    assert rows + lost == len(drawn.examples)
    unasked = {note.partition(":")[0] for note in drawn.notes if note.endswith(NO_ANNOTATION)}
    assert unasked == {*get_args(ConversationTask)} - {example.task for example in drawn.examples}
    if sample:
        collate([sample], MODEL)
