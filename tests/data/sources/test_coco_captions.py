"""COCO captions: all captions of an image, and their defects."""

from __future__ import annotations

import pytest

from glamm_jax.data.sources.coco_captions import DATASETS
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    BROKEN_TEXT,
    EMPTY_TEXT,
    MISSING_IMAGE,
    NO_ANNOTATION,
    SIZE_MISMATCH,
    UNKNOWN_ID,
    SourceError,
)
from tests.data.sources.small_datasets import FIXTURES, image_bytes, kinds, read_all, texts, write

COCO = DATASETS["coco_captions"]
FILE = "coco_2017/annotations/captions_train2017.json"


def build(root, *captions, **more):
    """Read an image p.jpg with these captions; a dict is a complete annotation."""
    write(root / "coco_2017" / "train2017" / "p.jpg", image_bytes())
    annotations = [
        item if isinstance(item, dict) else {"id": i, "image_id": 9, "caption": item}
        for i, item in enumerate(captions)
    ]
    write(
        root / FILE,
        {"images": [{"id": 9, "file_name": "p.jpg", **more}], "annotations": annotations},
    )
    return read_all(COCO(root, "train"))


@pytest.mark.parametrize("split", ["train", "val"])
def test_quirk_41_a_picture_has_all_of_its_captions_under_its_own_key(split):
    results = read_all(COCO(FIXTURES, split))
    assert {key: texts(result.record, "caption") for key, result in results.items()} == {
        f"00000000000{i}.jpg": [f"A short caption {i}{j} of the {split} image." for j in (0, 1)]
        for i in (0, 1)
    }
    assert not any(result.defects for result in results.values())


def test_captions_are_stripped_and_the_long_and_the_strange_are_kept(tmp_path):
    long = "a dog and " * 5000
    result = build(tmp_path, " A dog. ", "Ein Hund \ud83d", "犬", long)["p.jpg"]
    assert texts(result.record, "caption") == ["A dog.", "Ein Hund \ufffd", "犬", long.strip()]
    assert kinds(result) == {BROKEN_TEXT: 1}


@pytest.mark.parametrize("caption", [None, 7, "", "  ", "...", ["A dog."]], ids=str)
def test_an_empty_caption_is_named_and_the_others_are_read(tmp_path, caption):
    result = build(tmp_path, caption, "A dog.")["p.jpg"]
    assert texts(result.record, "caption") == ["A dog."]
    assert kinds(result) == {EMPTY_TEXT: 1}


def test_captions_of_no_picture_and_pictures_without_captions_are_named(tmp_path):
    strays = [{"image_id": 8, "caption": "A cat."}, {"caption": "A cat."}]
    results = build(tmp_path, *strays)
    assert [kinds(result) for result in results.values()] == [
        {NO_ANNOTATION: 1},
        {UNKNOWN_ID: 1},
        {BROKEN_ENTRY: 1},
    ]


def test_another_size_is_named_and_the_caption_is_still_true(tmp_path):
    result = build(tmp_path, "A dog.", height=20, width=12)["p.jpg"]
    assert texts(result.record, "caption") == ["A dog."]
    assert kinds(result) == {SIZE_MISMATCH: 1}


def test_missing_pictures_files_and_splits_are_named(tmp_path):
    (result,) = build(tmp_path, "A dog.", file_name="q.jpg").values()
    assert kinds(result) == {MISSING_IMAGE: 1}
    with pytest.raises(
        SourceError, match=r"contains no coco_2017/annotations/captions_val2017\.json"
    ):
        COCO(tmp_path, "val")
    with pytest.raises(SourceError, match="no split 'test'; available: train, val"):
        COCO(tmp_path, "test")
