"""Items of scenes, shards and datasets in their original layout; missing files are named."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from glamm_jax.evaluation.benchmarks import BENCHMARKS
from glamm_jax.evaluation.items import EvaluationData, ItemsError, ItemSet, open_items
from tests.evaluation.conftest import FROM_RECORDS, miniworld


def opened(benchmark: str, path: Path | str, split: str, **other: Any) -> ItemSet:
    data = EvaluationData(str(path), split, **other)
    return open_items(BENCHMARKS[benchmark], data, BENCHMARKS[benchmark].prompt_template())


@pytest.mark.parametrize("name", FROM_RECORDS)
def test_every_benchmark_has_items_in_the_mini_world(name: str) -> None:
    item_set = miniworld(name, 3)
    assert len({item.record for item in item_set.items}) == 3
    assert all(
        item_set.records[item.record].image_id == item.image_id or "/" in item.id
        for item in item_set.items
    )
    assert item_set.name == "miniworld"


def test_the_hash_follows_from_what_is_asked_and_true() -> None:
    same, again = miniworld("gcg", 3), miniworld("gcg", 3)
    others = [miniworld("gcg", 4), miniworld("refseg", 3), miniworld("gcg", 3, "val")]
    assert same.hash == again.hash
    assert len({same.hash, *(each.hash for each in others)}) == 4


@pytest.mark.parametrize(
    ("benchmark", "dataset", "split", "texts"),
    [
        ("refseg", "refcoco", "val", 0),
        ("region_caption", "refcocog_regions", "train", 1),
        ("image_caption", "coco_captions", "train", 2),
        ("gcg", "grandf_ha", "train", 1),
    ],
)
def test_datasets_are_asked_as_they_came(
    goldens: Path, benchmark: str, dataset: str, split: str, texts: int
) -> None:
    item_set = opened(benchmark, goldens / "fixtures" / "data", split, dataset=dataset)
    assert item_set.items
    assert all(len(item.reference_texts) >= min(texts, 1) for item in item_set.items)
    assert item_set.name == {"refcocog_regions": "refcocog", "grandf_ha": ""}.get(dataset, dataset)


@pytest.mark.parametrize(
    ("benchmark", "path", "other", "problem"),
    [
        ("gcg", "absent", {}, "absent: no such file or folder"),
        ("gcg", "", {}, r"no val_gcg_coco_caption_gt.json in it"),
        ("refseg", "", {}, r"no dataset_info.json, so no record shards.*--dataset NAME"),
        ("refseg", "", {"dataset": "refcoc"}, "did you mean 'refcoco'"),
        ("refseg", "", {"dataset": "refcoco"}, "contains no Refer_Segm/refcoco"),
        ("region_caption", "", {}, r"expected one file \*captions.json of split 'val'"),
        ("conversation", "", {}, "questions.jsonl: no such file; LLaVA-Bench has"),
        ("gcg", "miniworld/none", {}, "no mini-world 'none'; there are easy"),
        ("gcg", "miniworld/easy", {"limit": 0}, "at least one"),
    ],
)
def test_what_is_missing_is_named(
    tmp_path: Path, benchmark: str, path: str, other: dict, problem: str
) -> None:
    where = path if path.startswith("miniworld") else tmp_path / path
    with pytest.raises(ItemsError, match=problem):
        opened(benchmark, where, "val", **other)


def test_a_split_without_anything_to_ask_is_an_error_that_says_what_was_left_out(
    goldens: Path, tmp_path: Path
) -> None:
    data = tmp_path / "Refer_Segm"
    shutil.copytree(goldens / "fixtures" / "data" / "Refer_Segm", data)
    for image in data.rglob("*.jpg"):
        image.unlink()
    with pytest.raises(ItemsError, match=r"no items in split 'val' for refseg \(left out: \d+ no"):
        opened("refseg", tmp_path, "val", dataset="refcoco")
