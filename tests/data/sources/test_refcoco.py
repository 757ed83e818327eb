"""RefCOCO, +, g and RefCLEF: every sentence of every split with the mask of its object."""

from __future__ import annotations

import pickle

import pytest

from glamm_jax.data.record import Link
from glamm_jax.data.sources.defects import (
    BAD_BOX,
    BAD_MASK,
    BROKEN_ENTRY,
    EMPTY_MASK,
    EMPTY_TEXT,
    MISSING_IMAGE,
    SIZE_MISMATCH,
    UNKNOWN_ID,
    SourceError,
)
from glamm_jax.data.sources.refcoco import CLEF_FOLDERS, COCO_FOLDERS, DATASETS
from tests.data.sources.small_datasets import (
    FIXTURES,
    block,
    image_bytes,
    kinds,
    pixels,
    read_all,
    read_single,
    tasks,
    texts,
    write,
)

POLYGON = [1, 1, 7, 1, 7, 6, 1, 6]


def ref(**more):
    fields = {"ref_id": 1, "ann_id": 5, "image_id": 9, "split": "train"}
    return {**fields, "sentences": [{"sent_id": 1, "sent": " The LEFT one "}], **more}


def target(**more):
    fields = {"id": 5, "image_id": 9, "bbox": [1, 1, 6, 5], "segmentation": [POLYGON]}
    return {**fields, **more}


def build(root, refs, objects=None, images=None, folder=COCO_FOLDERS[0], name="refcoco"):
    """Write a small dataset of one image with id 9."""
    write(root / folder / "p.jpg", image_bytes())
    first = {"id": 9, "file_name": "p.jpg", "height": 12, "width": 20}
    layout = {"images": images or [first], "annotations": objects or [target()], "categories": []}
    base = root / "Refer_Segm" / name
    write(base / "instances.json", layout)
    owner = "umd" if name == "refcocog" else "unc"
    write(base / f"refs({owner}).p", pickle.dumps(refs))
    return root


def test_quirk_41_sentences_are_stripped_and_lower_cased_and_all_are_kept(tmp_path):
    sentences = [{"sent": f" Number {i} "} for i in range(5)]
    build(tmp_path, [ref(), ref(ann_id=6, sentences=sentences)], [target(), target(id=6)])
    record = read_single(DATASETS["refcoco"], tmp_path).record
    assert texts(record, "referring") == ["the left one", *(f"number {i}" for i in range(5))]
    assert [item.links for item in record.annotations] == [(Link(0),)] + [(Link(1),)] * 5


def test_quirk_41_pictures_come_in_the_order_of_their_references(tmp_path):
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (1, 40, 3)]
    refs = [ref(image_id=i) for i in (40, 3, 40, 1)]
    build(tmp_path, refs, [target(image_id=1)], images)
    assert list(DATASETS["refcoco"](tmp_path, "train").keys) == ["40", "3", "1"]


def test_references_to_one_object_share_its_region(tmp_path):
    build(tmp_path, [ref(), ref(ref_id=2)])
    record = read_single(DATASETS["refcoco"], tmp_path).record
    assert tasks(record) == {"referring": 2}
    assert len(record.regions) == 1
    assert record.regions[0].box_xyxy_pixel == (1, 1, 7, 6)
    assert pixels(record, 0) == 30


def test_an_object_without_polygons_has_an_empty_mask_as_in_the_original(tmp_path):
    build(tmp_path, [ref()], [target(segmentation=[])])
    result = read_single(DATASETS["refcoco"], tmp_path)
    assert pixels(result.record, 0) == 0
    assert kinds(result) == {EMPTY_MASK: 1}


def test_refclef_has_run_lengths_and_pictures_of_its_own(tmp_path):
    runs = [block(1, 1, 7, 6)]
    objects = [target(segmentation=runs)]
    build(tmp_path, [ref()], objects, folder=CLEF_FOLDERS[0], name="refclef")
    assert pixels(read_single(DATASETS["refclef"], tmp_path).record, 0) == 30


@pytest.mark.parametrize("folder", COCO_FOLDERS)
def test_quirk_36_pictures_lie_where_the_code_looks_or_where_the_documentation_says(
    tmp_path, folder
):
    build(tmp_path, [ref()], folder=folder)
    source = DATASETS["refcoco"](tmp_path, "train")
    assert source.image_path("9") == tmp_path / folder / "p.jpg"
    assert source.read("9").record is not None


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", ["train"]),
        ("val", ["val"]),
        ("test", ["test", "testA", "testB", "testAB", "testBC"]),
        ("testA", ["testA", "testAB"]),
        ("testB", ["testB", "testAB", "testBC"]),
        ("testC", ["testBC"]),
    ],
)
def test_splits_are_those_of_the_references(tmp_path, split, expected):
    names = ["train", "val", "test", "testA", "testB", "testAB", "testBC"]
    refs = [ref(split=name, sentences=[{"sent": name}]) for name in names]
    build(tmp_path, refs, folder=CLEF_FOLDERS[0], name="refclef")
    record = read_single(DATASETS["refclef"], tmp_path, split).record
    assert texts(record, "referring") == [name.lower() for name in expected]


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_dataset_of_the_fixtures_is_read_without_a_lost_sentence(name):
    counts = {}
    for split in ("train", "val"):
        results = read_all(DATASETS[name](FIXTURES, split))
        counts[split] = sum(tasks(result.record)["referring"] for result in results.values())
    assert counts == {"train": 6, "val": 3}


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"ann_id": 77}, UNKNOWN_ID),
        ({"ann_id": [5]}, UNKNOWN_ID),
        ({"ann_id": None}, UNKNOWN_ID),
        ({"image_id": 77}, UNKNOWN_ID),
        ({"image_id": None}, BROKEN_ENTRY),
        ({"split": 3}, BROKEN_ENTRY),
        ({"sentences": "the dog"}, BROKEN_ENTRY),
        ({"sentences": ["the dog"]}, BROKEN_ENTRY),
        ({"sentences": [{"sent": "  "}]}, EMPTY_TEXT),
    ],
    ids=str,
)
def test_a_broken_reference_is_named_and_the_others_are_read(tmp_path, changed, kind):
    build(tmp_path, [ref(**changed), ref()])
    results = read_all(DATASETS["refcoco"](tmp_path, "train"))
    assert texts(results["9"].record, "referring") == ["the left one"]
    assert sum(kinds(result)[kind] for result in results.values()) == 1


@pytest.mark.parametrize("entry", [None, 7, "ref", [], {1: 2}])
def test_a_reference_that_is_none_is_named(tmp_path, entry):
    build(tmp_path, [entry, ref()])
    results = read_all(DATASETS["refcoco"](tmp_path, "train"))
    assert texts(results["9"].record, "referring") == ["the left one"]
    assert kinds(results["ref 0"]) == {BROKEN_ENTRY: 1}


def test_a_bad_box_does_not_cost_the_mask_and_a_bad_mask_costs_its_sentences(tmp_path):
    objects = [target(bbox=[1, 1, -6, 5]), target(id=6, segmentation=[[1, 2, 3, 4]])]
    build(tmp_path, [ref(), ref(ann_id=6)], objects)
    result = read_single(DATASETS["refcoco"], tmp_path)
    assert texts(result.record, "referring") == ["the left one"]
    assert result.record.regions[0].box_xyxy_pixel is None
    assert kinds(result) == {BAD_BOX: 1, BAD_MASK: 1}


def test_polygons_for_a_picture_of_another_size_are_not_drawn(tmp_path):
    images = [{"id": 9, "file_name": "p.jpg", "height": 20, "width": 12}]
    build(tmp_path, [ref()], images=images)
    result = read_single(DATASETS["refcoco"], tmp_path)
    assert result.record is None
    assert kinds(result) == {SIZE_MISMATCH: 1, BAD_MASK: 1, BAD_BOX: 1}


@pytest.mark.parametrize("name", [None, 3, "q.jpg", "\0"])
def test_a_missing_picture_is_named(tmp_path, name):
    build(tmp_path, [ref()], images=[{"id": 9, "file_name": name}])
    assert kinds(read_single(DATASETS["refcoco"], tmp_path)) == {MISSING_IMAGE: 1}


def test_absent_and_damaged_files_are_errors(tmp_path):
    make = DATASETS["refcoco"]
    with pytest.raises(SourceError, match="contains no Refer_Segm/refcoco"):
        make(tmp_path, "train")
    build(tmp_path, [ref()])
    refs = tmp_path / "Refer_Segm" / "refcoco" / "refs(unc).p"
    for data, message in (
        (b"x", "is the file complete"),
        (pickle.dumps({}), "list of references"),
    ):
        refs.write_bytes(data)
        with pytest.raises(SourceError, match=message):
            make(tmp_path, "train")
    refs.unlink()
    with pytest.raises(SourceError, match="no such file"):
        make(tmp_path, "train")
    write(tmp_path / "Refer_Segm" / "refcoco" / "instances.json", {"images": []})
    with pytest.raises(SourceError, match="no lists named images and annotations"):
        make(tmp_path, "train")
    with pytest.raises(SourceError, match="no split 'tset'; available: train, val, test, testA,"):
        make(tmp_path, "tset")
    with pytest.raises(SourceError, match=r"no split 'testA'; available: train, val, test$"):
        DATASETS["refcocog"](tmp_path, "testA")
