"""Filters before an export, and what they count."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from glamm_jax.errors import ConfigError
from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    filter_record,
    object_name,
)
from glamm_jax.grand.export.images import AnnotatedImage, image_split
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import GrandObject, GrandRecord
from tests.grand.export.annotated import (
    DOG,
    EMPTY,
    FENCE,
    FULL,
    TEMPLATE,
    UNVERIFIED,
    make_item,
)


def _filtered(record: GrandRecord, **fields: Any) -> tuple[GrandRecord, dict[str, int]]:
    dropped: Counter[str] = Counter()
    result = filter_record(record, ExportFilters(**fields), dropped)
    return result, {name: n for name, n in dropped.items() if n}


def test_without_filters_a_record_is_the_same_object() -> None:
    assert filter_record(FULL, NO_FILTERS, Counter()) is FULL
    assert filter_record(EMPTY, NO_FILTERS, Counter()) is EMPTY
    assert filter_record(FULL, ExportFilters(min_box_side=1), Counter()) is FULL


def test_a_dropped_object_disappears_from_all_texts() -> None:
    record, dropped = _filtered(FULL, labels=("dog", "fence"))
    assert [item.id for item in record.objects] == [0, 4]
    assert [item.id for item in record.floating_objects] == [5]
    assert [(link.phrase, link.object_ids) for link in record.links] == [("two dogs", (0, 4))]
    assert record.linked_ids == (0, 4)
    assert record.relations == ()
    assert list(record.affordances) == ["sit"]
    assert record.short_captions is not None and record.dense_caption is not None
    assert [item.phrase for item in record.short_captions[0].groundings] == ["Two dogs"]
    assert [item.object_ids for item in record.dense_caption.groundings] == [(0,), (4,), (5,)]
    assert record.dense_caption.caption == (FULL.dense_caption and FULL.dense_caption.caption)
    assert dropped == {
        "objects: label not in the list": 1,
        "floating objects: label not in the list": 1,
        "links: objects dropped": 1,
        "relations: objects dropped": 1,
        "groundings: objects dropped": 2,
    }


def test_a_phrase_of_several_objects_keeps_the_others() -> None:
    record, dropped = _filtered(FULL, min_votes=3)
    assert [item.id for item in record.objects] == [0]
    assert record.floating_objects == ()
    assert record.links[0].object_ids == (0,) and record.affordances["sit"]["object_ids"] == [0]
    assert dropped["objects: fewer than 3 votes"] == 2
    assert dropped["floating objects: fewer than 3 votes"] == 2


def test_each_model_has_one_vote() -> None:
    twice = replace(DOG, votes=(DOG.votes[0], DOG.votes[0]))
    record, _ = _filtered(GrandRecord(objects=(twice,)), min_votes=2)
    assert record.objects == ()


def test_scores() -> None:
    record, dropped = _filtered(FULL, min_score=0.4)
    assert [item.id for item in record.objects] == [0, 1, 4]
    assert record.floating_objects == ()
    assert dropped["floating objects: no score"] == 1
    assert dropped["floating objects: score below 0.4"] == 1
    assert FENCE in FULL.floating_objects and FENCE.score is None


def test_boxes_and_excluded_labels() -> None:
    record, dropped = _filtered(FULL, min_box_side=10.25)
    assert [item.id for item in (*record.objects, *record.floating_objects)] == [0, 1, 4]
    assert dropped["floating objects: box side below 10.25"] == 2
    record, dropped = _filtered(FULL, excluded_labels=("Wine glass", "DOG"))
    assert record.objects == () and dropped["objects: label excluded"] == 3


def test_ids_that_no_object_has_stay() -> None:
    links = (replace(FULL.links[0], object_ids=(0, 99)),)
    record, _ = _filtered(replace(FULL, links=links), excluded_labels=("wine glass",))
    assert record.links == links


def test_an_id_in_both_lists_stays_with_the_object_that_stays() -> None:
    double = replace(FULL, floating_objects=(replace(DOG, score=None), FENCE))
    record, dropped = _filtered(double, min_score=0.5)
    assert [item.id for item in record.objects] == [0, 4]
    assert record.links == (FULL.links[0],)
    assert dropped["floating objects: no score"] == 2


def test_dense_captions() -> None:
    assert _filtered(FULL)[0].dense_caption is not None
    for record, reason, flag in (
        (UNVERIFIED, "dense captions: not verified", "unverified_captions"),
        (replace(FULL, verified=None), "dense captions: not verified", "unverified_captions"),
        (TEMPLATE, "dense captions: template", "template_captions"),
    ):
        result, dropped = _filtered(record)
        assert result.dense_caption is None and dropped == {reason: 1}
        assert result.short_captions == FULL.short_captions
        assert _filtered(record, **{flag: True}) == (record, {})


def test_images() -> None:
    items = [
        make_item("a.jpg", difference_hash=0),
        make_item("b.jpg", difference_hash=0b111),
        make_item("c.jpg", difference_hash=0b1111),
        make_item("d.jpg", difference_hash=0b111, status="rejected"),
        make_item("e.jpg", status="partial"),
        make_item("f.jpg", difference_hash=(1 << 64) - 1),
    ]

    def names(**fields: Any) -> tuple[list[str], dict[str, int]]:
        summary = ExportSummary("test")
        passed = filter_items(items, ExportFilters(**fields), summary)
        return [image.file_name for image, _ in passed], dict(summary.dropped)

    assert names() == (["a.jpg", "b.jpg", "c.jpg", "e.jpg", "f.jpg"], {"images: rejected": 1})
    # c is near b, which was dropped, but not near a.
    expected = {"images: near-duplicate": 1, "images: rejected": 1, "images: partial": 1}
    assert names(duplicate_distance=3, partial_images=False) == (
        ["a.jpg", "c.jpg", "f.jpg"],
        expected,
    )
    assert names(duplicate_distance=0)[0] == ["a.jpg", "b.jpg", "c.jpg", "e.jpg", "f.jpg"]
    with pytest.raises(ConfigError, match="duplicate_distance = 16"):
        ExportFilters(duplicate_distance=16)


def test_names_of_objects() -> None:
    assert object_name(DOG) == "dog"
    assert object_name(replace(DOG, label=None)) == "dog"
    assert object_name(GrandObject(0, (0, 0, 1, 1), ("wine_glass ",))) == "wine glass"
    assert object_name(GrandObject(0, (0, 0, 1, 1), ())) is None


def test_an_image_of_a_section_of_a_run() -> None:
    section = {"file": "a/b c.jpg", "sha256": "00ff", "bytes": 3, "height": 48, "width": 64}
    image = AnnotatedImage.from_section("a/b c.jpg", {**section, "dhash": "f" * 16}, bytes)
    assert image == AnnotatedImage(
        "a/b c.jpg", "a__b c.jpg", bytes, "00ff", 48, 64, (1 << 64) - 1, "ok"
    )
    image = AnnotatedImage.from_section("x", section, bytes, "partial")
    assert image.difference_hash is None and image.status == "partial" and image.read() == b""


def test_a_split_follows_from_the_bytes_of_the_image() -> None:
    image, _ = make_item("a.jpg")
    copy = replace(image, image_id="z", file_name="z.jpg")
    shares = [i / 64 for i in range(65)]
    splits = [image_split(image, share) for share in shares]
    assert splits == [image_split(copy, share) for share in shares]
    assert splits[0] == "train" and splits[-1] == "val" and splits == sorted(splits)
    images = [replace(image, image_id=str(i), sha256="") for i in range(2000)]
    assert 0.2 < sum(image_split(x, 0.25) == "val" for x in images) / 2000 < 0.3
