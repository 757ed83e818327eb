"""Records are read and written without a change, ours and released."""

from __future__ import annotations

import math
from typing import Any

import pytest

from glamm_jax.grand.record import (
    CaptionAttempt,
    GrandCaption,
    GrandObject,
    GrandRecord,
    PhraseGrounding,
    PhraseLink,
    Relation,
    Vote,
    changed,
)
from glamm_jax.json_files import JSONError

BOX = (1.0, 2.0, 30.5, 40.0)
RELEASED: dict[str, Any] = {
    "objects": [
        {
            "bbox": list(BOX),
            "labels": ["cup", "mug"],
            "score": 0.5,
            "attributes": ["a red cup"],
            "id": 4,
            "label": "cup",
            "depth": 12.5,
            "segmentation": {"size": [8, 8], "counts": "01o1"},
            "segmentation_source": "SAM",
        }
    ],
    "floating_objects": [{"bbox": list(BOX), "labels": ["a dog"], "attributes": None, "id": 5}],
    "floating_attributes": [
        {"bbox": list(BOX), "labels": [], "score": 0.3, "attributes": ["a red cup"]}
    ],
    "landmark": {"category": "Indoor scene", "fine_category": "Work space"},
    "affordances": {"Sit": {"description": "", "object_ids": [4], "labels": ["cup"]}},
    "id_counter": 7,
    "relationships": {
        "object_ids": [4],
        "floating_object_ids": [],
        "grounding": [{"phrase": "a cup", "object_ids": [4, 4]}],
    },
    "short_captions": [
        {
            "caption": "a cup",
            "details": [
                {"phrase": "a cup", "tokens_positive": [0, 5], "id": 4, "bbox": list(BOX)},
                {"phrase": "cup", "tokens_positive": [2, 5], "id": 9, "bbox": None},
            ],
        }
    ],
    "dense_caption": {
        "caption": "A cup.",
        "details": [
            {"phrase": "a cup", "tokens_positive": None, "ids": [4, 5], "bbox": [list(BOX)] * 2}
        ],
    },
    "additional_context": "Cups hold drinks.",
}


def test_a_released_record_is_read_and_written_without_a_change() -> None:
    record = GrandRecord.from_json(RELEASED)
    assert record.to_json() == RELEASED
    assert record.irregular == ()
    assert record.objects[0].mask_source == "SAM"
    assert record.links == (PhraseLink("a cup", (4, 4)),)
    assert record.dense_caption is not None and record.short_captions is not None
    assert record.dense_caption.groundings[0].span is None
    assert record.short_captions[0].groundings[1].boxes == (None,)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"objects": [{"bbox": [0, 0, 1, 1], "id": 0}]},
        {"objects": [{"bbox": [0, 0, 1, 1], "labels": [], "attributes": "a cup", "id": 0}]},
        {"objects": [{"bbox": [0, 0, 1, 1], "labels": None, "score": None, "group_id": 3}]},
        {"objects": [{"bbox": [0, 0, 1, 1], "labels": ["a"], "depth": "NaN", "id": 0}]},
        {"landmark": [], "captions": [], "short_captions": []},
        {"landmark": None, "relationships": None, "id_counter": 3},
        {"relationships": {"grounding": []}, "captions": ["a"]},
        {"id_counter": None, "dense_caption": None, "affordances": None, "extra": {"a": 1}},
    ],
    ids=str,
)
def test_missing_null_and_unknown_keys_stay_as_they_were(value: dict[str, Any]) -> None:
    record = GrandRecord.from_json(value)
    assert record.to_json() == value
    assert GrandRecord.from_json(record.to_json()) == record


def test_an_own_record_is_read_as_it_was_written() -> None:
    vote = Vote("grit", "a red cup", 0.4, "description")
    grounding = PhraseGrounding("a cup", (0, 5), (0, 1), (BOX, BOX))
    record = GrandRecord(
        objects=(GrandObject(0, BOX, ("cup",), 0.9, ("a red cup",), (vote,), depth=math.nan),),
        id_counter=2,
        captions=("a cup",),
        relations=(Relation((0,), "on", (1,), 1),),
        short_captions=(GrandCaption("a cup", (grounding,)),),
        dense_caption=GrandCaption("a cup", (grounding,)),
        dense_source="template",
        attempts=(CaptionAttempt("no", "length", "cut", ("a cup",), ("cup",)),),
        verified=False,
    )
    assert GrandRecord.from_json(record.to_json()) == record
    assert "segmentation" not in record.to_json()["objects"][0]
    assert GrandRecord.from_json(GrandRecord().to_json()) == GrandRecord()


def test_a_changed_field_is_written_in_the_regular_form() -> None:
    value = {"bbox": [0, 0, 1, 1], "labels": None, "attributes": "a cup", "id": 0, "group_id": 3}
    item = changed(GrandObject.from_json(value), attributes=("b", "c"))
    assert item.to_json() == {**value, "attributes": ["b", "c"]}
    record = changed(GrandRecord.from_json({"captions": []}), captions=())
    assert "captions" not in record.to_json()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"f: \[\] is not an object"),
        ({"objects": {}}, None),
        ({"objects": {"a": 1}}, "f: objects = .* is not a list"),
        ({"objects": [3]}, r"f: objects\[0\]: 3 is not an object"),
        ({"objects": [{"bbox": [0, 0, 1]}]}, "bbox"),
        ({"objects": [{"bbox": [0, 0, 1, "1"]}]}, "bbox"),
        ({"objects": [{"bbox": [0, 0, 1, 1], "labels": [1]}]}, "labels"),
        ({"objects": [{"bbox": [0, 0, 1, 1], "id": "1"}]}, "id"),
        ({"objects": [{"bbox": [0, 0, 1, 1], "id": -1}]}, "negative"),
        ({"objects": [{"bbox": [0, 0, 1, 1], "score": "high"}]}, "score"),
        ({"landmark": "beach"}, "landmark"),
        ({"relationships": {"grounding": [{"phrase": 1}]}}, "phrase"),
        ({"short_captions": [{"caption": "a", "details": [{"phrase": "a"}]}]}, "id = None"),
        ({"dense_caption": {"caption": "a", "details": [{"phrase": "a", "ids": [0.5]}]}}, "ids"),
        ({"id_counter": 1.5}, "id_counter"),
    ],
    ids=str,
)
def test_a_wrong_type_is_named(value: Any, message: str | None) -> None:
    if message is None:
        assert GrandRecord.from_json(value).objects == ()
        return
    with pytest.raises(JSONError, match=message):
        GrandRecord.from_json(value, "f")
