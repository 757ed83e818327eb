"""The files of the original's evaluations, and of NoCaps, Flickr30k and LLaVA-Bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.data.record import RecordError
from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.items import EvaluationData, ItemsError, ItemSet, open_items
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.miniworld.annotations import encode_jpeg
from glamm_jax.miniworld.grandf_folder import write_grandf

SCENES = [render_scene(1, i, 64, EASY) for i in range(3)]


def opened(benchmark: str, path: Path, split: str = "val", images: Path | None = None) -> ItemSet:
    data = EvaluationData(str(path), split, images=images)
    return open_items(BENCHMARKS[benchmark], data, BENCHMARKS[benchmark].prompt_template())


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for one in SCENES:
        (folder / f"{one.scene_id}.jpg").write_bytes(encode_jpeg(one.image))
    return folder


def test_grounded_captions_are_read_as_the_original_judges_them(tmp_path: Path) -> None:
    write_grandf(tmp_path / "data", {"val": SCENES})
    base = tmp_path / "data" / "GranDf" / "annotations" / "val_test"
    for place in (tmp_path / "data", base):
        item_set = opened("gcg", place)
        assert [item.id for item in item_set.items] == ["sa_0", "sa_1", "sa_2"]
        for one, item in zip(SCENES, item_set.items, strict=True):
            assert len(item.reference_phrases) == len(item.reference_masks) >= len(one.objects)
            assert open_image(item_set.records[item.record].image).shape == (64, 64, 3)
        assert item_set.name == ""


def test_positions_stay_where_masks_are_broken_or_labels_missing(tmp_path: Path) -> None:
    write_grandf(tmp_path / "data", {"val": SCENES})
    base = tmp_path / "data" / "GranDf" / "annotations" / "val_test"
    masks = json.loads((base / "val_gcg_coco_mask_gt.json").read_text())
    count = sum(each["image_id"] == "sa_0" for each in masks["annotations"])
    masks["annotations"][0]["segmentation"] = {"size": [64, 64], "counts": "?"}
    write(base / "val_gcg_coco_mask_gt.json", masks)
    item_set = opened("gcg", base)
    first = item_set.items[0]
    assert len(first.reference_masks) == count
    assert not rle.decode(first.reference_masks[0]).any()
    assert np.all([rle.decode(mask).any() for mask in first.reference_masks[1:]])
    assert [*item_set.notes] == ["bad mask"]


def test_a_picture_that_is_not_there_fails_when_it_is_asked_about(tmp_path: Path) -> None:
    write_grandf(tmp_path / "data", {"val": SCENES})
    (tmp_path / "data/GranDf/GranDf_HA_images/val_test/sa_1.jpg").unlink()
    item_set = opened("gcg", tmp_path / "data")
    assert len(item_set.items) == 3
    with pytest.raises(RecordError, match=r"sa_1.jpg: no such image"):
        item_set.records[1]


def test_regions_are_asked_by_the_box_of_the_annotation_with_the_pictures_id(
    tmp_path: Path, image_folder: Path
) -> None:
    images = [{"id": i + 1, "file_name": "0.jpg", "height": 64, "width": 64} for i in range(2)]
    annotations = [{"id": 1, "image_id": 1, "caption": "a red star", "bbox": [5, 6, 20, 30]}]
    file = write(
        tmp_path / "finetune_refcocog_val_captions.json",
        {"images": images, "annotations": annotations},
    )
    for path in (file, tmp_path):
        item_set = opened("region_caption", path)
        [item] = item_set.items
        assert (item.id, item.regions, item.reference_texts) == (
            "1", ((5.0, 6.0, 25.0, 36.0),), ("a red star",)
        )  # fmt: skip
        assert [len(where) for where in item_set.notes.values()] == [1]
        assert item_set.name == "refcocog"


def test_captions_come_in_two_layouts(tmp_path: Path, image_folder: Path) -> None:
    coco = {
        "images": [{"id": 4, "file_name": "1.jpg"}],
        "annotations": [{"id": i, "image_id": 4, "caption": text} for i, text in enumerate("ab")],
    }
    [item] = opened("image_caption", write(tmp_path / "nocaps_val.json", coco)).items
    assert (item.id, item.reference_texts) == ("4", ("a", "b"))
    karpathy = {
        "images": [
            {"imgid": i, "filename": f"{i}.jpg", "split": split, "sentences": [{"raw": "a dog"}]}
            for i, split in enumerate(("train", "test", "val"))
        ]
    }
    file = write(tmp_path / "dataset_flickr30k.json", karpathy)
    item_set = opened("image_caption", file, "test")
    assert [(item.id, item.reference_texts) for item in item_set.items] == [("1", ("a dog",))]
    assert item_set.name == "flickr30k"
    assert open_image(item_set.records[0].image).shape == (64, 64, 3)
    with pytest.raises(ItemsError, match="no split 'testA'; available: "):
        opened("image_caption", file, "testA")


def test_llava_bench_comes_with_what_its_judge_is_told(tmp_path: Path, image_folder: Path) -> None:
    lines = {
        "questions": {"question_id": 0, "image": "2.jpg", "text": "What?", "category": "conv"},
        "context": {"id": "2", "image": "2.jpg", "caption": "A meadow."},
        "answers_gpt4": {"question_id": 0, "text": "A star.", "category": "conv"},
    }
    for name, line in lines.items():
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(line) + "\n")
    [item] = opened("conversation", tmp_path).items
    assert (item.id, item.prompt, item.reference_texts) == ("0", "What?", ("A star.",))
    assert item.metadata == {"category": "conv", "context": "A meadow."}
    (tmp_path / "context.jsonl").write_text("{")
    with pytest.raises(ItemsError, match=r"context.jsonl: line 1: not valid JSON"):
        opened("conversation", tmp_path)


def test_pictures_that_are_nowhere_are_said_so(tmp_path: Path, image_folder: Path) -> None:
    coco = {"images": [{"id": 1, "file_name": "x.jpg"}], "annotations": []}
    file = write(tmp_path / "deep" / "a.json", coco)
    with pytest.raises(ItemsError, match=r"'x.jpg' are in none of.*--images"):
        opened("image_caption", file)
