"""What a correction makes of a record, and which corrections are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.grand.record import (
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    RecordReview,
    Relation,
    Vote,
    changed,
)
from glamm_jax.grand.review.correction import (
    CorrectedCaption,
    CorrectedObject,
    CorrectedPhrase,
    Correction,
    CorrectionError,
)
from glamm_jax.grand.review.reviewed_record import corrected_record

SIZE = HEIGHT, WIDTH = 20, 30
MASK = np.zeros(SIZE, bool)
MASK[2:6, 3:9] = True
RUNS = rle.encode(MASK)
BOXES = ((1.0, 1.0, 9.0, 9.0), (10.0, 2.0, 20.0, 12.0), (0.0, 0.0, 30.5, 19.0))
DENSE = "A \N{DOG FACE} runs after a cat on grass."


def grounding(text: str, phrase: str, *ids: int) -> PhraseGrounding:
    start = text.index(phrase)
    boxes = tuple(BOXES[i] for i in ids)
    return PhraseGrounding(phrase, (start, start + len(phrase)), ids, boxes)


SHORT = ("A dog after a cat.", "Grass.")
RECORD = GrandRecord(
    objects=(
        GrandObject(
            0, BOXES[0], ("dog", "wolf"), 0.9, ("a brown dog",), (Vote("d", "dog", 0.9),), "dog"
        ),
        GrandObject(1, BOXES[1], ("bench",), 0.8, label="bench", mask=RUNS, mask_source="SAM"),
    ),
    floating_objects=(GrandObject(2, BOXES[2], ("grass",), 0.4),),
    affordances={"Sit": {"description": "...", "object_ids": [1], "labels": ["bench"]}},
    links=(PhraseLink("a dog", (0,)), PhraseLink("a cat", (1,)), PhraseLink("grass", (2,))),
    linked_ids=(0, 1),
    linked_floating_ids=(2,),
    relations=(Relation((0,), "after", (1,), 0),),
    id_counter=7,
    short_captions=(
        GrandCaption(SHORT[0], (grounding(SHORT[0], "A dog", 0), grounding(SHORT[0], "a cat", 1))),
        GrandCaption(SHORT[1], (grounding(SHORT[1], "Grass", 2),)),
    ),
    dense_caption=GrandCaption(
        DENSE, (grounding(DENSE, "A \N{DOG FACE}", 0), grounding(DENSE, "a cat", 1))
    ),
    dense_source="llm",
    verified=False,
)


def corrected_object(number: int, **fields: Any) -> CorrectedObject:
    items = {item.id: item for item in (*RECORD.objects, *RECORD.floating_objects)}
    item = items.get(number, GrandObject(number, (1.0, 1.0, 5.0, 5.0), ("new",)))
    known = CorrectedObject(
        number, item.box, item.labels[0], item.attributes, item.mask, item.mask_source
    )
    return replace(known, **fields)


def caption(text: str, **ids: tuple[int, ...]) -> CorrectedCaption:
    """A caption whose phrases are the names of the arguments, with blanks for underscores."""
    phrases = []
    for name, numbers in ids.items():
        start = text.index(name.replace("_", " "))
        phrases.append(CorrectedPhrase((start, start + len(name)), numbers))
    return CorrectedCaption(text, tuple(phrases))


def correct(**fields: Any) -> GrandRecord:
    return corrected_record(RECORD, Correction(**fields), SIZE)


def as_short(item: GrandCaption) -> CorrectedCaption:
    phrases = [CorrectedPhrase(x.span or (0, 0), x.object_ids) for x in item.groundings]
    return CorrectedCaption(item.caption, tuple(phrases))


def test_an_empty_correction_changes_nothing() -> None:
    assert correct() == RECORD


def test_a_caption_and_its_spans_in_characters() -> None:
    text = "Two \N{DOG FACE} bark at a cat."
    record = correct(dense_caption=CorrectedCaption(text, (CorrectedPhrase((0, 5), (0, 1)),)))
    assert record.dense_caption is not None
    (item,) = record.dense_caption.groundings
    assert (item.phrase, item.span) == ("Two \N{DOG FACE}", (0, 5))
    assert (item.object_ids, item.boxes) == ((0, 1), BOXES[:2])
    assert (record.dense_source, record.verified) == ("reviewer", None)
    assert replace(record, dense_caption=None) == replace(
        RECORD, dense_caption=None, dense_source="reviewer", verified=None
    )
    # The check of the models stays where the text stays.
    moved = correct(dense_caption=CorrectedCaption(DENSE, (CorrectedPhrase((2, 3), (0,)),)))
    assert (moved.dense_source, moved.verified) == ("llm", False)
    assert correct(dense_caption=CorrectedCaption(" ")).dense_caption is None


def test_a_box_moves_in_every_caption() -> None:
    box = (2.0, 2.0, 8.0, 8.0)
    record = correct(objects=(corrected_object(0, box=box, mask=RUNS, mask_source="segmenter"),))
    item = record.objects[0]
    assert (item.box, item.mask, item.mask_source, item.reviewed) == (box, RUNS, "segmenter", True)
    assert (item.labels, item.label) == (("dog", "wolf"), "dog")
    assert item.votes == RECORD.objects[0].votes
    captions = (record.dense_caption, *(record.short_captions or ()))
    boxes = [x.boxes for c in captions if c for x in c.groundings if 0 in x.object_ids]
    assert boxes == [(box,), (box,)]


def test_a_renamed_region_has_other_candidates_and_affordances() -> None:
    record = correct(objects=(corrected_object(1, label="zebra crossing"),))
    item = record.objects[1]
    assert (item.label, item.labels) == ("zebra crossing", ("zebra crossing",))
    assert record.affordances == {}
    record = correct(objects=(corrected_object(0, label="bench", attributes=None),))
    assert record.affordances["Sit"]["object_ids"] == [1, 0]
    assert record.objects[0].attributes is None


def test_a_removed_region_disappears_everywhere() -> None:
    record = correct(removed=(1,))
    assert [item.id for item in record.objects] == [0]
    assert record.relations == ()
    assert record.affordances == {}
    assert record.linked_ids == (0,)
    captions = (record.dense_caption, *(record.short_captions or ()))
    assert not [x for c in captions if c for x in c.groundings if 1 in x.object_ids]


def test_what_a_person_changes_or_links_is_not_floating_any_more() -> None:
    for fields in (
        {"objects": (corrected_object(2, label="lawn"),)},
        {"dense_caption": caption(DENSE, a_cat=(1,), grass=(2,))},
    ):
        record = correct(**fields)
        assert [item.id for item in record.objects] == [0, 1, 2]
        assert record.floating_objects == ()
        assert (record.linked_ids, record.linked_floating_ids) == ((0, 1, 2), ())
    # A link of the automatic record confirms nothing.
    unchanged = tuple(as_short(item) for item in RECORD.short_captions or ())
    assert correct(short_captions=unchanged).floating_objects == RECORD.floating_objects


def test_a_new_region_has_a_new_number() -> None:
    record = correct(objects=(corrected_object(7, label="hat"),))
    item = record.objects[-1]
    assert (item.id, item.label, item.labels, item.score) == (7, "hat", ("hat",), None)
    assert record.id_counter == 8
    with pytest.raises(CorrectionError, match="object 3: the record has none, and new ones begin"):
        correct(objects=(corrected_object(3),))


def test_links_and_relations_follow_the_short_captions() -> None:
    second = as_short((RECORD.short_captions or ())[1])
    other = caption("A dog is after a cat.", A_dog=(0,), a_cat=(1,))
    assert correct(short_captions=(other, second)).relations == RECORD.relations
    lost = correct(short_captions=(caption("A dog bites a cat.", A_dog=(0,), a_cat=(1,)), second))
    assert lost.relations == ()
    unlinked = correct(short_captions=(caption("A dog after a cat.", A_dog=(0,)), second))
    assert unlinked.relations == ()
    assert unlinked.links == (PhraseLink("a dog", (0,)), PhraseLink("grass", (2,)))
    assert (unlinked.linked_ids, unlinked.linked_floating_ids) == ((0,), (2,))


def test_texts_alone_become_captions_with_phrases() -> None:
    record = replace(RECORD, captions=("A dog.",), short_captions=None)
    correction = Correction(short_captions=(caption("A wolf.", A_wolf=(0,)),))
    result = corrected_record(record, correction, SIZE)
    assert result.captions == ()
    assert [item.caption for item in result.short_captions or ()] == ["A wolf."]
    assert "captions" not in result.to_json()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objects": (corrected_object(0, box=(0.0, 0.0, 31.0, 5.0)),)}, "not in the image of 30"),
        ({"objects": (corrected_object(0, box=(-1.0, 0.0, 3.0, 5.0)),)}, "not in the image"),
        ({"objects": (corrected_object(0, mask=rle.encode(MASK.T)),)}, "a mask of 20 x 30 pixels"),
        ({"objects": (corrected_object(0, mask=rle.encode(MASK & False)),)}, "the mask is empty"),
        ({"objects": (corrected_object(0, label=" "),)}, "object 0: the label is empty"),
        ({"removed": (5,)}, "removed object 5: the record has none"),
        ({"removed": (0,), "objects": (corrected_object(0),)}, "both corrected and removed"),
        (
            {"dense_caption": caption("A cat.", A_cat=(5,))},
            "'A cat' names object 5, which",
        ),
        (
            {"removed": (1,), "dense_caption": caption("A cat.", A_cat=(1,))},
            "the dense caption: the phrase 'A cat' names object 1, which does not exist",
        ),
        ({"short_captions": (caption("One."),)}, "1 short captions in the correction, and 2"),
        ({"short_captions": (caption("One."), caption(""))}, "short caption 2 is empty"),
    ],
)
def test_a_correction_that_does_not_fit_is_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(CorrectionError, match=message):
        correct(**fields)


def test_what_the_models_did_wrong_does_not_forbid_another_change() -> None:
    """The box of object 2 exceeds the image; a new label is accepted, a new box is checked."""
    assert correct(objects=(corrected_object(2, label="lawn"),)).objects[-1].box == BOXES[2]
    with pytest.raises(CorrectionError, match="not in the image"):
        correct(objects=(corrected_object(2, box=(0.0, 0.0, 30.6, 19.0)),))


def test_corrections_and_reviews_are_read_as_they_were_written() -> None:
    correction = Correction(
        (corrected_object(0, attributes=("x",), mask=RUNS),), (1,), caption("A b.", A_b=(0,)), ()
    )
    assert Correction.from_json(correction.to_json(), "x") == correction
    review = RecordReview("corrected", ("ann", "bob"), "2026-11-30T02:12:05Z", 3)
    record = changed(correct(objects=(corrected_object(0, label="x"),)), review=review)
    assert GrandRecord.from_json(record.to_json()) == record
    assert record.to_json()["review"]["authors"] == ["ann", "bob"]
