"""Region captions: captions of one and of several boxes, layouts, and defects."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.data.record import Link
from glamm_jax.data.sources.defects import (
    BAD_BOX,
    BAD_SPAN,
    BROKEN_ENTRY,
    DUPLICATE_ID,
    EMPTY_TEXT,
    EXTRA_SPANS,
    MISSING_IMAGE,
    NO_ANNOTATION,
    SHORT_CAPTION,
    SIZE_MISMATCH,
    SMALL_BOX,
    SMALL_IMAGE,
    UNKNOWN_ID,
    UNREADABLE_IMAGE,
    SourceError,
)
from glamm_jax.data.sources.json_files import is_set, read_json
from glamm_jax.data.sources.region_captions import CROWD, DATASETS
from tests.data.sources.small_datasets import FIXTURES, image_bytes, kinds, read_all, texts, write

HEIGHT, WIDTH = 40, 50
MDETR = "RefCoco_Reg/mdetr_annotations"
FILES = {
    "refcoco_regions": f"{MDETR}/finetune_refcoco_train.json",
    "refcoco+_regions": f"{MDETR}/finetune_refcoco+_train.json",
    "refcocog_regions": f"{MDETR}/finetune_refcocog_train.json",
    "visual_genome": "visual_genome/train.json",
    "flickr_regions": "flikcr_30k/mdetr_annotations/final_flickr_mergedGT_train.json",
}
FOLDERS = {
    **dict.fromkeys(list(FILES)[:3], "RefCoco_Reg/coco_2014"),
    "visual_genome": "visual_genome/images",
    "flickr_regions": "flikcr_30k/flickr30k-images",
}
CAPTION = "A dog runs to a ball."


def box(**more):
    fields = {"id": 5, "image_id": 9, "bbox": [2, 2, 10, 8], "area": 80, "caption": " a dog "}
    return {**fields, "tokens_positive": [[0, 5]], **more}


def image(**more):
    size = {"height": HEIGHT, "width": WIDTH}
    return {"id": 9, "file_name": "p.jpg", "caption": CAPTION, **size, **more}


def build(root, name, *annotations, images=None, data=None):
    """Read a dataset of one image p.jpg."""
    write(root / FOLDERS[name] / "p.jpg", data or image_bytes(HEIGHT, WIDTH))
    write(root / FILES[name], {"images": images or [image()], "annotations": list(annotations)})
    return read_all(DATASETS[name](root, "train"))


def boxes(record):
    return [region.box_xyxy_pixel for region in record.regions]


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_picture_of_the_fixtures_is_read_or_left_out_as_in_the_original(name):
    results = read_all(DATASETS[name](FIXTURES, "train"))
    assert [result.record is not None for result in results.values()] == {
        "flickr_regions": [True, False, True, False]
    }.get(name, [True, True, False])
    filtered = [result for result in results.values() if result.record is None]
    assert {kind for result in filtered for kind in kinds(result)} <= {SMALL_IMAGE, SHORT_CAPTION}


def test_every_entry_of_a_picture_adds_its_expression_to_one_record(tmp_path):
    images = [image(caption=" the left one "), image(id=10, caption="the brown dog")]
    results = build(tmp_path, "refcoco_regions", box(), box(image_id=10), images=images)
    record = results["p.jpg"].record
    assert texts(record, "region") == ["the left one", "the brown dog"]
    assert [item.links for item in record.annotations] == [(Link(0),), (Link(1),)]
    assert boxes(record) == [(2, 2, 12, 10)] * 2
    assert (record.image_id, record.source, record.split) == ("p", "refcoco_regions", "train")


def test_visual_genome_describes_every_box_by_itself(tmp_path):
    results = build(tmp_path, "visual_genome", box(), box(bbox=[0, 0, 5, 5], caption="a ball"))
    assert texts(results["p.jpg"].record, "region") == ["a dog", "a ball"]
    assert boxes(results["p.jpg"].record) == [(2, 2, 12, 10), (0, 0, 5, 5)]


def test_quirk_12_a_box_beyond_the_picture_is_kept_and_one_outside_is_not(tmp_path):
    beyond, outside = box(bbox=[-5, 30, 80, 20]), box(bbox=[50, 2, 10, 8])
    result = build(tmp_path, "visual_genome", beyond, outside)["p.jpg"]
    assert boxes(result.record) == [(-5, 30, 75, 50)]
    assert kinds(result) == {BAD_BOX: 1}


def test_quirk_16_a_caption_is_about_all_regions_and_each_is_there_once(tmp_path):
    second = box(bbox=[20, 2, 5, 8], tokens_positive=[[14, 20]])
    record = build(tmp_path, "flickr_regions", box(), second)["p.jpg"].record
    assert texts(record, "region") == [CAPTION, "A dog", "a ball"]
    assert [item.links for item in record.annotations] == [
        (Link(0), Link(1)),
        (Link(0),),
        (Link(1),),
    ]
    assert boxes(record) == [(2, 2, 12, 10), (20, 2, 25, 10)]


def test_quirk_42_thirteen_boxes_have_thirteen_descriptions(tmp_path):
    many = [box(bbox=[i, 2, 10, 8]) for i in range(13)]
    for name in ("visual_genome", "flickr_regions"):
        record = build(tmp_path, name, *many)["p.jpg"].record
        single = [item for item in record.annotations if len(item.links) == 1]
        assert [item.links[0].region for item in single] == list(range(13))
        assert boxes(record) == [(i, 2, i + 10, 10) for i in range(13)]


def test_quirk_38_pictures_that_are_left_out_are_counted_and_not_those_that_are_there():
    source = DATASETS["flickr_regions"](FIXTURES, "train")
    results = read_all(source)
    assert len(source.keys) == 4
    assert sum(result.record is not None for result in results.values()) == 2
    assert kinds(results["1001.jpg"]) == {SMALL_IMAGE: 1}
    assert kinds(results["1003.jpg"]) == {SHORT_CAPTION: 1}


def test_captions_of_one_picture_keep_their_own_regions(tmp_path):
    images = [image(), image(id=10, caption="The ball is red.")]
    second = box(image_id=10, tokens_positive=[[0, 8]])
    record = build(tmp_path, "flickr_regions", box(), second, images=images)["p.jpg"].record
    regions_by_text = [
        (item.text, [link.region for link in item.links]) for item in record.annotations
    ]
    assert regions_by_text == [
        (CAPTION, [0]),
        ("A dog", [0]),
        ("The ball is red.", [1]),
        ("The ball", [1]),
    ]


def test_a_crowd_is_no_region_of_flickr(tmp_path):
    result = build(tmp_path, "flickr_regions", box(iscrowd=1), box())["p.jpg"]
    assert len(result.record.regions) == 1
    assert kinds(result) == {CROWD: 1}


@pytest.mark.parametrize(
    ("spans", "kind", "phrase"),
    [
        ([[0, 5], [6, 10]], EXTRA_SPANS, ["A dog"]),
        ([[0, 500]], BAD_SPAN, []),
        ([[5, 2]], BAD_SPAN, []),
        ([[0, 2.5]], BAD_SPAN, []),
        ([], BAD_SPAN, []),
        (None, BAD_SPAN, []),
        ("0-5", BROKEN_ENTRY, []),
        ([[20, 21]], EMPTY_TEXT, []),
    ],
    ids=str,
)
def test_a_box_without_a_phrase_is_spoken_of_by_its_caption(tmp_path, spans, kind, phrase):
    result = build(tmp_path, "flickr_regions", box(tokens_positive=spans))["p.jpg"]
    assert texts(result.record, "region") == [CAPTION, *phrase]
    assert kinds(result)[kind] == 1


@pytest.mark.parametrize("name", ["refcocog_regions", "visual_genome", "flickr_regions"])
@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"bbox": [2, 2, 0.5, 8]}, SMALL_BOX),
        ({"bbox": [2, 2, -10, 8]}, SMALL_BOX),
        ({"area": 0}, SMALL_BOX),
        ({"ignore": 1}, SMALL_BOX),
        ({"bbox": [60, 2, 10, 8]}, BAD_BOX),
        ({"bbox": [2, float("nan"), 10, 8]}, BAD_BOX),
        ({"bbox": [2, 2, 1e300, 8]}, BAD_BOX),
        ({"bbox": [2, 2, 10]}, BAD_BOX),
        ({"bbox": None}, BAD_BOX),
        ({"bbox": ["two", 2, 10, 8]}, BAD_BOX),
    ],
    ids=str,
)
def test_a_bad_box_is_named_and_the_others_are_read(tmp_path, name, more, kind):
    result = build(tmp_path, name, box(**more), box())["p.jpg"]
    assert boxes(result.record) == [(2, 2, 12, 10)]
    assert kinds(result) == {kind: 1}


@pytest.mark.parametrize("caption", [None, 7, "", " . ", ["a dog"]], ids=str)
def test_an_empty_description_is_named_and_the_others_are_read(tmp_path, caption):
    result = build(tmp_path, "visual_genome", box(caption=caption), box())["p.jpg"]
    assert texts(result.record, "region") == ["a dog"]
    assert len(result.record.regions) == 1
    assert kinds(result) == {EMPTY_TEXT: 1}


@pytest.mark.parametrize(
    ("images", "kind"),
    [
        ([image(file_name="q.jpg")], MISSING_IMAGE),
        ([image(file_name="\0")], MISSING_IMAGE),
        ([image(height=WIDTH, width=HEIGHT)], SIZE_MISMATCH),
        ([image(height="forty")], SIZE_MISMATCH),
    ],
    ids=["absent", "no name", "turned", "text"],
)
def test_a_picture_that_does_not_serve_is_named(tmp_path, images, kind):
    (result,) = build(tmp_path, "visual_genome", box(), images=images).values()
    assert result.record is None
    assert kinds(result)[kind] == 1


@pytest.mark.parametrize("number", [str, float, lambda size: f" {size}.0"])
def test_sizes_and_boxes_may_be_texts(tmp_path, number):
    images = [image(height=number(HEIGHT), width=number(WIDTH))]
    annotation = box(bbox=[number(x) for x in (2, 2, 10, 8)])
    (result,) = build(tmp_path, "visual_genome", annotation, images=images).values()
    assert boxes(result.record) == [(2.0, 2.0, 12.0, 10.0)]
    assert not result.defects


def test_other_defects_of_pictures_are_named(tmp_path):
    small = build(
        tmp_path, "visual_genome", box(), images=[image(height=31)], data=image_bytes(31, 50)
    )
    assert kinds(small["p.jpg"]) == {SMALL_IMAGE: 1}
    cut = build(tmp_path, "visual_genome", box(), data=image_bytes(40, 50)[:70])
    assert kinds(cut["p.jpg"]) == {UNREADABLE_IMAGE: 1}
    assert kinds(build(tmp_path, "visual_genome")["p.jpg"]) == {NO_ANNOTATION: 1}


def test_entries_that_belong_nowhere_are_named(tmp_path):
    images = [image(), None, image(id=8, file_name=3), image(file_name="p.jpg")]
    results = build(tmp_path, "visual_genome", box(), box(image_id=7), None, images=images)
    del results["p.jpg"]
    assert {kind for result in results.values() for kind in kinds(result)} == {
        BROKEN_ENTRY,
        DUPLICATE_ID,
        UNKNOWN_ID,
    }
    assert list(results) == [
        "train.json image 9",
        "train.json annotation 1",
        "train.json annotation 2",
        "entry 1",
        "entry 2",
    ]


# ---------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("folder", ["RefCoco_Reg/coco_2014", "coco_2014/train2014"])
@pytest.mark.parametrize("name", list(FILES)[:3])
def test_quirk_36_pictures_of_refcoco_lie_in_two_places(tmp_path, name, folder):
    write(tmp_path / folder / "p.jpg", image_bytes(HEIGHT, WIDTH))
    write(tmp_path / FILES[name], {"images": [image()], "annotations": [box()]})
    source = DATASETS[name](tmp_path, "train")
    assert source.image_path("p.jpg") == tmp_path / folder / "p.jpg"
    assert texts(source.read("p.jpg").record, "region") == [CAPTION]


@pytest.mark.parametrize("folder", ["flikcr_30k/flickr30k-images", "flikcr_30k/train"])
@pytest.mark.parametrize("top", ["flikcr_30k/mdetr_annotations", MDETR])
def test_quirk_36_flickr_lies_in_two_places_and_so_do_its_pictures(tmp_path, top, folder):
    write(tmp_path / folder / "p.jpg", image_bytes(HEIGHT, WIDTH))
    layout = {"images": [image()], "annotations": [box()]}
    write(tmp_path / top / "final_flickr_mergedGT_train.json", layout)
    source = DATASETS["flickr_regions"](tmp_path, "train")
    assert texts(source.read("p.jpg").record, "region") == [CAPTION, "A dog"]


@pytest.mark.parametrize(
    ("name", "split", "num_images"),
    [("refcocog_regions", "val", 2), ("refcoco+_regions", "val", 2), ("visual_genome", "test", 2)],
)
def test_other_splits_have_files_of_their_own(name, split, num_images):
    results = read_all(DATASETS[name](FIXTURES, split))
    records = [result.record for result in results.values() if result.record is not None]
    assert len(records) == num_images
    assert {record.split for record in records} == {split}


@pytest.mark.parametrize("name", list(DATASETS))
def test_absent_and_broken_files_are_errors_that_name_them(tmp_path, name):
    with pytest.raises(SourceError, match=r"no .*train\.json"):
        DATASETS[name](tmp_path, "train")
    with pytest.raises(SourceError, match="no split 'none'; available: train"):
        DATASETS[name](tmp_path, "none")
    for data, message in ((b"[", "is the file complete"), (b"[]", "no lists named images")):
        write(tmp_path / FILES[name], data)
        with pytest.raises(SourceError, match=message):
            DATASETS[name](tmp_path, "train")


@pytest.mark.parametrize(
    ("value", "expected"),
    [("0", False), (0, False), (None, False), ("false", False), (1, True), ("1", True)],
)
def test_flags_may_be_texts(value: object, expected: bool) -> None:
    assert is_set(value) is expected


def test_advice_fits_the_error(tmp_path: Path) -> None:
    for data, message in ((b"{}\n{}\n", "jq -s"), ('["狗"]'.encode("gb18030"), "GB18030")):
        (tmp_path / "x.json").write_bytes(data)
        with pytest.raises(SourceError, match=message) as error:
            read_json(tmp_path / "x.json")
        assert "complete" not in str(error.value)
