"""COCO's captions: all of a picture, and what can be wrong with them."""

from __future__ import annotations

import pytest

from glamm_jax.data.sources.coco_captions import DATASETS
from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    BROKEN_TEXT,
    EMPTY_TEXT,
    MISSING_IMAGE,
    NO_ANNOTATION,
    SIZE_MISMATCH,
    UNKNOWN_ID,
    SourceError,
)
from tests.data.sources.small import FIXTURES, kinds, picture, read_all, texts, write

COCO = DATASETS["coco_captions"]
FILE = "coco_2017/annotations/captions_train2017.json"


def build(root, *captions, **more):
    """What a picture p.jpg with these captions gives; one that is no text is an annotation."""
    write(root / "coco_2017" / "train2017" / "p.jpg", picture())
    annotations = [
        each if isinstance(each, dict) else {"id": i, "image_id": 9, "caption": each}
        for i, each in enumerate(captions)
    ]
    write(
        root / FILE,
        {"images": [{"id": 9, "file_name": "p.jpg", **more}], "annotations": annotations},
    )
    return read_all(COCO(root, "train"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_trap_41_a_picture_has_all_of_its_captions_under_its_own_key(split):
    found = read_all(COCO(FIXTURES, split))
    assert {key: texts(each.record, "caption") for key, each in found.items()} == {
        f"00000000000{i}.jpg": [f"A short caption {i}{j} of the {split} image." for j in (0, 1)]
        for i in (0, 1)
    }
    assert not any(each.defects for each in found.values())


def test_captions_are_stripped_and_the_long_and_the_strange_are_kept(tmp_path):
    long = "a dog and " * 5000
    found = build(tmp_path, " A dog. ", "Ein Hund \ud83d", "犬", long)["p.jpg"]
    assert texts(found.record, "caption") == ["A dog.", "Ein Hund \ufffd", "犬", long.strip()]
    assert kinds(found) == {BROKEN_TEXT: 1}


@pytest.mark.parametrize("caption", [None, 7, "", "  ", "...", ["A dog."]], ids=str)
def test_an_empty_caption_is_named_and_the_others_are_read(tmp_path, caption):
    found = build(tmp_path, caption, "A dog.")["p.jpg"]
    assert texts(found.record, "caption") == ["A dog."]
    assert kinds(found) == {EMPTY_TEXT: 1}


def test_captions_of_no_picture_and_pictures_without_captions_are_named(tmp_path):
    strays = [{"image_id": 8, "caption": "A cat."}, {"caption": "A cat."}]
    found = build(tmp_path, *strays)
    assert [kinds(each) for each in found.values()] == [
        {NO_ANNOTATION: 1},
        {UNKNOWN_ID: 1},
        {BROKEN_ENTRY: 1},
    ]


def test_another_size_is_named_and_the_caption_is_still_true(tmp_path):
    found = build(tmp_path, "A dog.", height=20, width=12)["p.jpg"]
    assert texts(found.record, "caption") == ["A dog."]
    assert kinds(found) == {SIZE_MISMATCH: 1}


def test_missing_pictures_files_and_splits_are_named(tmp_path):
    (found,) = build(tmp_path, "A dog.", file_name="q.jpg").values()
    assert kinds(found) == {MISSING_IMAGE: 1}
    with pytest.raises(SourceError, match=r"no coco_2017/annotations/captions_val2017\.json in it"):
        COCO(tmp_path, "val")
    with pytest.raises(SourceError, match="no split 'test'; there are train, val"):
        COCO(tmp_path, "test")
