"""COCO's files, read with pycocotools."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO

from glamm_jax.data import rle
from glamm_jax.grand.export.coco import clipped_box, export_coco
from glamm_jax.grand.record import GrandObject, GrandRecord
from tests.grand.export.annotated import (
    DENSE,
    DOG,
    FULL,
    GLASS,
    SHORT,
    make_item,
    make_items,
    mask_array,
)


def _open(path: Path) -> Any:
    with redirect_stdout(StringIO()):
        return COCO(str(path))


# pycocotools' own arrays do not know numpy 2's copy argument.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pycocotools_loads_the_instances(tmp_path: Path) -> None:
    summary = export_coco(make_items(), tmp_path / "out", floating=True)
    coco = _open(tmp_path / "out" / "annotations" / "instances_train.json")
    names = ["dog", "fence", "shadow", "wine glass"]
    assert [(x["id"], x["name"]) for x in coco.loadCats(coco.getCatIds())] == [
        (i + 1, name) for i, name in enumerate(names)
    ]
    images = coco.loadImgs(coco.getImgIds())
    assert [x["file_name"] for x in images] == [
        "a.jpg",
        "a.png",
        "sa 2.jpg",
        "straße 犬.jpg",
        "noext",
    ]
    assert images[0] == {"id": 1, "file_name": "a.jpg", "height": 48, "width": 64}
    assert coco.getAnnIds(imgIds=[5]) == []
    annotations = coco.loadAnns(coco.getAnnIds(imgIds=[2]))
    assert [x["id"] for x in annotations] == [6, 7, 8, 9, 10]
    dog, glass, _, fence, _ = annotations
    assert dog["bbox"] == [2.0, 3.0, 18.0, 20.0] and dog["category_id"] == 1
    assert dog["area"] == 18 * 20 - 1 and dog["iscrowd"] == 0 and dog["score"] == 0.9
    assert np.array_equal(coco.annToMask(dog), mask_array(2, 3, 20, 23))
    assert glass["segmentation"] == [] and glass["area"] == round(10.25 * 19.5, 4)
    assert glass["category_id"] == 4 and "score" not in fence
    assert summary.counts["objects"] == 20 and summary.counts["masks"] == 12


def test_captions(tmp_path: Path) -> None:
    export_coco(make_items(), tmp_path / "out", dense_captions=True)
    coco = _open(tmp_path / "out" / "annotations" / "captions_train.json")
    texts = [x["caption"] for x in coco.loadAnns(coco.getAnnIds(imgIds=[1]))]
    assert texts == [SHORT, "Animals outside", DENSE]
    assert len(coco.getAnnIds(imgIds=[3])) == 2  # its dense caption is not verified


def test_referring_expressions(tmp_path: Path) -> None:
    summary = export_coco(make_items(), tmp_path / "out")
    path = tmp_path / "out" / "annotations" / "referring_train.json"
    coco, content = _open(path), json.loads(path.read_bytes())
    assert len(content["refs"]) == 8  # the glass has no mask
    first, second = content["refs"][:2]
    assert first == {
        "category_id": 1,
        "ref_id": 1,
        "ann_id": 1,
        "image_id": 1,
        "file_name": "a.jpg",
        "split": "train",
        "sent_ids": [1],
        "sentences": [
            {
                "sent_id": 1,
                "raw": "the brown dog",
                "sent": "the brown dog",
                "tokens": ["the", "brown", "dog"],
            }
        ],
    }
    assert coco.anns[second["ann_id"]]["bbox"] == [41.0, 3.0, 19.0, 20.0]
    assert summary.counts["referring expressions"] == 8


def test_two_splits_have_the_same_categories(tmp_path: Path) -> None:
    items = [make_item(f"{i}.jpg") for i in range(8)]
    export_coco(items, tmp_path / "out", validation_share=0.5, images="copy")
    train, val = (_open(tmp_path / f"out/annotations/instances_{x}.json") for x in ("train", "val"))
    assert train.dataset["categories"] == val.dataset["categories"]
    assert len(train.imgs) + len(val.imgs) == 8 and train.imgs and val.imgs
    for split, coco in (("train", train), ("val", val)):
        files = {path.name for path in (tmp_path / "out" / "images" / split).iterdir()}
        assert files == {x["file_name"] for x in coco.imgs.values()}


def test_unusable_objects_are_counted(tmp_path: Path) -> None:
    damaged = {"size": [48, 64], "counts": "~~"}
    objects = (
        replace(DOG, labels=(), label=None),
        replace(DOG, box=(100.0, 0.0, 120.0, 20.0)),
        replace(DOG, box=(float("nan"), 0.0, 1.0, 1.0)),
        replace(DOG, mask=damaged),
        replace(DOG, mask=rle.encode(np.ones((5, 5), bool))),
        replace(GLASS, label='a "quoted" näme'),
    )
    summary = export_coco([make_item("a.jpg", GrandRecord(objects=objects))], tmp_path / "out")
    assert dict(summary.dropped) == {
        "objects: no label": 1,
        "objects: box outside": 2,
        "masks: damaged": 2,
    }
    coco = _open(tmp_path / "out" / "annotations" / "instances_train.json")
    assert [x["name"] for x in coco.cats.values()] == ['a "quoted" näme', "dog"]
    assert [x["category_id"] for x in coco.anns.values()] == [2, 2, 1]


def test_boxes_are_cut_at_the_image() -> None:
    assert clipped_box((-5.0, 1.0, 70.0, 20.0), 10, 60) == (0.0, 1.0, 60.0, 10.0)
    assert clipped_box((5.0, 1.0, 5.0, 20.0), 10, 60) is None


def test_plain_run_lengths_are_compressed(tmp_path: Path) -> None:
    plain = rle.encode_counts(mask_array(2, 3, 20, 23))
    item = GrandObject(0, DOG.box, ("dog",), mask=plain)
    export_coco([make_item("a.jpg", replace(FULL, objects=(item,)))], tmp_path / "out")
    coco = _open(tmp_path / "out" / "annotations" / "instances_train.json")
    assert coco.anns[1]["segmentation"] == DOG.mask
