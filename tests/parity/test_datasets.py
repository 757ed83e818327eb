"""The part `datasets` agrees with the recording, and notices whatever is changed in it."""

from __future__ import annotations

import json

import pytest

from tests.parity.tampering import change_json, failed_names, run
from tools.parity import datasets
from tools.parity.report import GoldenError

pytestmark = pytest.mark.usefixtures("unchecked")  # most of the time would be type checks


def part_of(goldens, folder, *names):
    """A folder with the recorded items of some datasets, beside the whole fixtures."""
    recorded = json.loads((goldens / "datasets" / "items.json").read_text(encoding="utf-8"))
    (folder / "fixtures").symlink_to(goldens / "fixtures")
    (folder / "datasets").mkdir()
    write_items(folder, {name: recorded[name] for name in names})
    return folder


def items(folder):
    return json.loads((folder / "datasets" / "items.json").read_text(encoding="utf-8"))


def write_items(folder, recorded):
    (folder / "datasets" / "items.json").write_text(json.dumps(recorded), encoding="utf-8")


@pytest.fixture(scope="module")
def ledger(goldens, tmp_path_factory):
    folder = tmp_path_factory.mktemp("goldens")
    return run(datasets.check, part_of(goldens, folder, *datasets.CHECKS))


def test_every_item_agrees_or_has_a_reason(ledger):
    assert ledger.failures == []
    assert sum(row.verdict == "equal" for row in ledger.rows) > 900
    assert all(row.note for row in ledger.rows if row.verdict == "excluded")


def test_only_what_the_original_breaks_is_excluded_by_a_trap_of_its_data(ledger):
    excluded = {row.name for row in ledger.rows if "covered by a test" in row.note}
    assert excluded == {
        "GCG_RefCOCOg.items[0].conversations",
        "GCG_RefCOCOg.items[0].sampled_classes",
        "GCG_RefCOCOg.items[2].conversations",
        "GCG_RefCOCOg.items[2].sampled_classes",
        "GrandRefer_Reg.len_error",
        "GrandRefer_Segm.items[0].error",
        "GrandShortCaption.items[0].error",
        "LLaVaInstruct.len_error",
        "Semantic_paco_lvis_as_is.items[0].error",
        "Semantic_pascal_part_as_is.items[0].error",
    }


@pytest.mark.parametrize(
    ("dataset", "keys"),
    [
        ("GCG_GranDf", ("items", 0, "conversations", 0)),
        ("GCG_GranDf", ("items", 1, "sampled_classes", 1)),
        ("GCG_GranDf", ("items", 0, "masks", "rle_nonzero", 2, "counts")),
        ("GCG_GranDf", ("items", 0, "masks", "rle_nonzero", 1, "size", 0)),
        ("GCG_GranDf", ("items", 1, "masks", "max")),
        ("GCG_GranDf", ("items", 1, "masks", "shape", 0)),
        ("GCG_GranDf", ("items", 1, "clip_mean")),
        ("GCG_GranDf", ("items", 1, "clip_std")),
        ("GCG_GranDf", ("items", 1, "clip_shape", 0)),
        ("GCG_GranDf", ("items", 1, "sam", "mean")),
        ("GCG_GranDf", ("items", 1, "sam", "std")),
        ("GCG_GranDf", ("items", 1, "resize", 1)),
        ("GCG_GranDf", ("items", 1, "label", "shape", 1)),
        ("GCG_GranDf", ("len",)),
        ("GCG_OpenPSG", ("items", 2, "masks", "sum", 0)),
        ("GCG_RefCOCOg", ("items", 1, "conversations", 0)),
        ("GCG_RefCOCOg", ("items", 1, "sampled_classes", 0)),
        ("GCG_RefCOCOg", ("items", 0, "masks", "max")),
        ("GCG_Flickr", ("items", 1, "conversations", 0)),
        ("GCG_Flickr", ("len",)),
        ("ReferSegm_refcoco", ("items", 0, "masks", "max")),
        ("ReferSegm_refcoco", ("items", 0, "masks", "rle_nonzero", 1, "counts")),
        ("ReferSegm_refcoco+", ("items", 0, "masks", "sum", 2)),
        ("ReferSegm_refclef", ("items", 1, "conversations", 0)),
        ("GrandRefer_Reg", ("items", 0, "bboxes", 1, 2)),
        ("GrandRefer_Reg", ("items", 0, "conversations", 0)),
        ("GrandRefer_Segm", ("len",)),
        ("Semantic_ade20k", ("items", 0, "conversations", 0)),
        ("Semantic_ade20k", ("items", 0, "label", "unique", 3)),
        ("Semantic_ade20k", ("items", 0, "masks", "rle_nonzero", 0, "counts")),
        ("Semantic_cocostuff", ("items", 1, "label", "unique", 1)),
        ("Semantic_mapillary", ("items", 1, "masks", "sum", 0)),
        ("Semantic_pascal_part_path_repaired", ("items", 0, "masks", "rle_nonzero", 1, "counts")),
        ("Semantic_pascal_part_path_repaired", ("items", 0, "image_path", 1)),
        ("Semantic_paco_lvis_path_repaired", ("items", 3, "masks", "max")),
        ("RefCoco_Reg", ("items", 0, "bboxes", 0, 1)),
        ("RefCoco_Reg", ("len",)),
        ("RefCocoG_Reg", ("items", 1, "conversations", 0)),
        ("VisGen_Reg", ("items", 0, "bboxes", 2, 3)),
        ("VisGen_Reg_val", ("items", 0, "conversations", 0)),
        ("Flickr_Reg", ("items", 0, "bboxes", 1, 0)),
        ("Flickr_Reg", ("items", 1, "conversations", 0)),
        ("Flickr_Reg", ("items", 1, "questions", 0)),
        ("Flickr_Reg", ("len",)),
        ("CocoCap", ("items", 0, "conversations", 0)),
        ("CocoCap", ("items", 0, "sampled_classes", 0)),
        ("CocoCap", ("len",)),
        ("LLaVaInstruct", ("items", 0, "questions", 0)),
        ("LLaVaInstruct", ("items", 1, "sampled_classes", 0)),
        ("LLaVaInstruct", ("items", 1, "conversations", 0)),
    ],
    ids=str,
)
def test_one_changed_entry_is_noticed(goldens, tmp_path, dataset, keys):
    folder = part_of(goldens, tmp_path, dataset)
    change_json(folder / "datasets" / "items.json", (dataset, *keys))
    failed = failed_names(datasets.check, folder)
    name = dataset + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys)
    assert len(failed) == 1
    assert name.startswith(failed.pop())


@pytest.mark.parametrize(
    "dataset",
    [
        "ReferSegm_refcocog",
        "GrandRefer_Reg",
        "Semantic_cocostuff",
        "Semantic_paco_lvis_path_repaired",
        "VisGen_Reg",
        "Flickr_Reg",
    ],
)
def test_something_drawn_that_we_do_not_have_is_noticed(goldens, tmp_path, dataset):
    folder = part_of(goldens, tmp_path, dataset)
    change_json(folder / "datasets" / "items.json", (dataset, "items", 0, "sampled_classes", 1))
    assert f"{dataset}.items[0].sampled_classes" in failed_names(datasets.check, folder)


@pytest.mark.parametrize(
    ("dataset", "index"),
    [
        ("ReferSegm_refcoco_val", 2),
        ("GrandRefer_Reg", 1),
        ("Semantic_ade20k", 1),
        ("Semantic_pascal_part_path_repaired", 1),
        ("RefCocoG_Reg", 0),
        ("Flickr_Reg", 0),
    ],
)
def test_a_question_that_names_something_else_is_noticed(goldens, tmp_path, dataset, index):
    folder = part_of(goldens, tmp_path, dataset)
    recorded = items(folder)
    recorded[dataset]["items"][0]["questions"][index] = "What is this?"
    write_items(folder, recorded)
    assert f"{dataset}.items[0].questions" in failed_names(datasets.check, folder)


@pytest.mark.parametrize(
    ("dataset", "field"),
    [
        ("Semantic_ade20k", "bboxes"),
        ("RefCoco_Reg", "masks"),
        ("RefCocoP_Reg", "sam"),
        ("Flickr_Reg", "label"),
        ("CocoCap", "questions"),
        ("LLaVaInstruct", "resize"),
    ],
)
def test_something_where_a_task_has_nothing_is_noticed(goldens, tmp_path, dataset, field):
    folder = part_of(goldens, tmp_path, dataset)
    recorded = items(folder)
    recorded[dataset]["items"][0][field] = [1]
    write_items(folder, recorded)
    assert f"{dataset}.items[0].{field}" in failed_names(datasets.check, folder)


def test_a_dataset_or_a_field_that_nobody_knows_is_noticed(goldens, tmp_path):
    folder = part_of(goldens, tmp_path, "GCG_Flickr")
    recorded = items(folder)
    recorded["Another"] = {"items": [], "len": 3}
    recorded["GCG_Flickr"]["items"][0]["masks"]["min"] = 0
    write_items(folder, recorded)
    assert failed_names(datasets.check, folder) == {
        "Another.items",
        "Another.len",
        "GCG_Flickr.items[0].masks.min",
    }


def test_a_picture_without_a_record_and_an_absent_part_are_named(goldens, tmp_path):
    folder = part_of(goldens, tmp_path, "GCG_GranDf")
    change_json(folder / "datasets" / "items.json", ("GCG_GranDf", "items", 0, "image_path"))
    with pytest.raises(GoldenError, match=r"GCG_GranDf.items\[0\]: grandf_ha has no record of"):
        run(datasets.check, folder)
    (folder / "fixtures").unlink()
    with pytest.raises(GoldenError, match="no such folder"):
        run(datasets.check, folder)
