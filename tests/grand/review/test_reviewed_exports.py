"""Every reader of a run uses the reviewed version: exports, score, report, inspect."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glamm_jax.cli.annotate import main
from glamm_jax.data import rle
from glamm_jax.data.record_shards import RecordShards
from glamm_jax.grand.export.filters import NO_FILTERS, ExportFilters, filter_record
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord, RecordReview
from glamm_jax.grand.review.decisions import DecisionError, DecisionLog
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import export_items
from tests.grand.review.desk import content, decide, open_desk

NEW_TEXT = "A <b>tall</b> lighthouse \N{WHITE HEAVY CHECK MARK} stands beside a gate."
SIDE = 128


@pytest.fixture
def corrected(review_run: AnnotationRun) -> tuple[AnnotationRun, list[str], np.ndarray]:
    """The run after decisions of two authors; the images, and the mask that was corrected.

    ann corrects the first image, bob renames a region of it afterwards, ann discards the second
    image, and bob approves the third.
    """
    desk = open_desk(review_run)
    names = sorted(item["image"] for item in desk.listing("all", 0, 10)["items"])
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:50, 20:60] = True
    data = desk.image(names[0], "a")
    value = content(data)
    first, second = value["objects"][0], value["objects"][1]
    first |= {"label": "lighthouse", "box": [20, 10, 60, 50], "mask": rle.encode(mask)}
    first |= {"mask_source": "segmenter", "attributes": ["a tall lighthouse"]}
    start, end = NEW_TEXT.index("lighthouse"), NEW_TEXT.index("a gate")
    value["dense_caption"] = {
        "caption": NEW_TEXT,
        "phrases": [
            {"start": start, "end": start + len("lighthouse"), "ids": [first["id"]]},
            {"start": end, "end": end + len("a gate"), "ids": [second["id"], first["id"]]},
        ],
    }
    decide(desk, data, "correct", "ann", value)
    data = desk.image(names[0], "b")
    value = content(data)
    value["objects"][1]["label"] = "gate"
    decide(desk, data, "correct", "bob", value)
    decide(desk, desk.image(names[1], "a"), "discard", "ann")
    decide(desk, desk.image(names[2], "b"), "approve", "bob")
    return review_run, names, mask


def export(run: AnnotationRun, out: Path, form: str, *options: str) -> dict[str, Any]:
    arguments = ["export", str(run.path), "--format", form, "--out", str(out), *options]
    assert main(arguments) == 0
    return json.loads(next(out.rglob("export.json")).read_text())


def test_grand_json_has_the_corrected_version(corrected, tmp_path: Path) -> None:
    run, names, mask = corrected
    summary = export(run, tmp_path / "out", "grand-json", "--own-keys")
    assert summary["images"] == 5
    assert summary["dropped"]["images: discarded in review"] == 1
    assert summary["counts"]["images corrected in review"] == 1
    assert summary["counts"]["images approved in review"] == 1
    folder = tmp_path / "out" / "GranD_Data" / "annotations"
    assert not (folder / f"{names[1]}.json").exists()
    record = json.loads((folder / f"{names[0]}.json").read_text())[names[0]]
    first, second = record["objects"][:2]
    assert (first["label"], first["labels"]) == ("lighthouse", ["lighthouse"])
    assert first["bbox"] == [20, 10, 60, 50]
    assert first["attributes"] == ["a tall lighthouse"]
    assert np.array_equal(rle.decode(first["segmentation"]), mask)
    assert second["label"] == "gate"
    dense = record["dense_caption"]
    assert dense["caption"] == NEW_TEXT
    assert [x["phrase"] for x in dense["details"]] == ["lighthouse", "a gate"]
    assert [NEW_TEXT[slice(*x["tokens_positive"])] for x in dense["details"]] == [
        *("lighthouse", "a gate")
    ]
    assert [x["ids"] for x in dense["details"]] == [*([first["id"]], [second["id"], first["id"]])]
    assert dense["details"][0]["bbox"] == [[20, 10, 60, 50]]
    assert record["review"]["state"] == "corrected"
    assert record["review"]["authors"] == ["ann", "bob"]
    assert record["checks"]["source"] == "reviewer"
    # The form of the release has no keys of our own.
    export(run, tmp_path / "released", "grand-json")
    path = tmp_path / "released" / "GranD_Data" / "annotations" / f"{names[0]}.json"
    assert "review" not in path.read_text()


def test_coco_has_the_corrected_version(corrected, tmp_path: Path) -> None:
    run, names, mask = corrected
    export(run, tmp_path / "out", "coco", "--dense-captions", "--min-votes", "3")
    folder = tmp_path / "out" / "annotations"
    instances = json.loads((folder / "instances_train.json").read_text())
    images = {item["file_name"]: item["id"] for item in instances["images"]}
    assert set(images) == {names[0], *names[2:]}
    categories = {item["id"]: item["name"] for item in instances["categories"]}
    own = [x for x in instances["annotations"] if x["image_id"] == images[names[0]]]
    (item,) = [x for x in own if categories[x["category_id"]] == "lighthouse"]
    assert item["bbox"] == [20, 10, 40, 40]
    assert item["area"] == 1600
    assert np.array_equal(rle.decode(item["segmentation"]), mask)
    captions = json.loads((folder / "captions_train.json").read_text())["annotations"]
    assert NEW_TEXT in [x["caption"] for x in captions if x["image_id"] == images[names[0]]]
    referring = json.loads((folder / "referring_train.json").read_text())
    sentences = [s["raw"] for ref in referring["refs"] for s in ref["sentences"]]
    assert "a tall lighthouse" in sentences


def test_record_shards_have_the_corrected_version(corrected, tmp_path: Path) -> None:
    run, names, mask = corrected
    export(run, tmp_path / "shards", "shards", "--name", "reviewed", "--reviewed-only")
    records = list(RecordShards(tmp_path / "shards" / "glamm_reviewed" / "1.0.0", "train"))
    assert sorted(record.image_id for record in records) == [names[0], names[2]]
    record = min(records, key=lambda item: item.image_id)
    (gcg,) = [item for item in record.annotations if item.task == "gcg"]
    assert gcg.text == NEW_TEXT
    phrases = [(NEW_TEXT[link.start : link.end], link.region) for link in gcg.links]
    assert sorted(phrase for phrase, _ in phrases) == ["a gate", "a gate", "lighthouse"]
    region = record.regions[dict(phrases)["lighthouse"]]
    assert region.box_xyxy_pixel == (20, 10, 60, 50)
    assert region.mask == rle.encode(mask)["counts"].encode()


def test_ignore_reviews_gives_the_automatic_version(corrected, tmp_path: Path) -> None:
    run, names, _ = corrected
    options = ("--ignore-reviews", "--own-keys")
    summary = export(run, tmp_path / "out", "grand-json", *options)
    assert summary["images"] == 6
    text = (tmp_path / "out" / "GranD_Data" / "annotations" / f"{names[0]}.json").read_text()
    assert "lighthouse" not in text
    assert "review" not in text
    arguments = ["export", str(run.path), "--format", "coco", "--out", str(tmp_path / "x")]
    assert main([*arguments, "--reviewed-only", "--ignore-reviews"]) == 2


def test_score_report_and_inspect(corrected, tmp_path: Path, capsys) -> None:
    run, names, _ = corrected
    capsys.readouterr()
    assert main(["score", str(run.path), "--json"]) == 0
    reviewed = json.loads(capsys.readouterr().out)
    assert reviewed["reviews"] == {"corrected": 1, "discarded": 1, "approved": 1}
    assert main(["score", str(run.path), "--json", "--ignore-reviews"]) == 0
    automatic = json.loads(capsys.readouterr().out)
    assert automatic["reviews"] == {}
    assert automatic["metrics"]["label_accuracy"] > reviewed["metrics"]["label_accuracy"]
    assert main(["score", str(run.path)]) == 0
    assert "reviewed images: 1 approved, 1 corrected, 1 discarded" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert main(["report", str(run.path), "--out", str(page)]) == 0
    text = page.read_text()
    assert "images discarded in review" in text
    assert names[1] not in text
    assert "written by a reviewer" in text
    assert main(["inspect", str(run.path), names[0], "--out", str(page)]) == 0
    text = page.read_text()
    assert "These annotations were corrected by ann, bob." in text
    assert "A &lt;b&gt;tall&lt;/b&gt; " in text
    assert main(["inspect", str(run.path), names[0], "--out", str(page), "--ignore-reviews"]) == 0
    assert "corrected by" not in page.read_text()


@pytest.mark.parametrize("fields", [{"verified": False}, {"dense_source": "template"}])
def test_an_approved_caption_needs_no_verification(fields: dict[str, Any]) -> None:
    record = GrandRecord(dense_caption=GrandCaption("A dog."), **fields)
    assert filter_record(record, NO_FILTERS, Counter()).dense_caption is None
    for state, is_exported in (("approved", True), ("corrected", True), ("outdated", False)):
        review = RecordReview(state, ("ann",), "2026-11-30T02:12:05Z", 1)
        filtered = filter_record(replace(record, review=review), NO_FILTERS, Counter())
        assert (filtered.dense_caption is not None) is is_exported


def test_what_a_person_drew_needs_neither_score_nor_votes() -> None:
    item = GrandObject(0, (0.0, 0.0, 5.0, 5.0), ("dog",))
    filters = ExportFilters(min_score=0.5, min_votes=3)
    for is_reviewed in (False, True):
        record = GrandRecord(objects=(replace(item, reviewed=is_reviewed),))
        assert len(filter_record(record, filters, Counter()).objects) == is_reviewed


def test_decisions_about_earlier_annotations_are_counted_and_not_applied(
    corrected, tmp_path: Path
) -> None:
    run, names, _ = corrected
    path = Path(run.path) / "review" / "decisions.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "record": "0" * 64}) + "\n" for line in lines))
    summary = export(run, tmp_path / "out", "coco")
    assert summary["images"] == 6
    assert summary["dropped"]["reviews: of other annotations of the image"] == 3
    assert "lighthouse" not in (tmp_path / "out/annotations/instances_train.json").read_text()
    desk = open_desk(run)
    assert desk.run()["counts"]["outdated"] == 3
    assert desk.listing("unreviewed", 0, 10)["total"] == 6
    assert desk.image(names[0], "a")["review"]["state"] == "outdated"


def test_a_decision_about_an_unknown_image_is_refused_by_name(
    review_run: AnnotationRun, tmp_path: Path, capsys
) -> None:
    desk = open_desk(review_run)
    name = desk.listing("all", 0, 1)["items"][0]["image"]
    decide(desk, desk.image(name, "a"), "approve")
    path = Path(review_run.path) / "review" / "decisions.jsonl"
    path.write_text(path.read_text().replace(name, "other.png"))
    capsys.readouterr()
    for command in (["score"], ["report"], ["inspect", name], ["review"]):
        assert main([command[0], str(review_run.path), *command[1:]]) == 2
        assert "line 1: the run has no image 'other.png'" in capsys.readouterr().err


def test_a_correction_that_was_edited_by_hand_is_refused_by_name(corrected) -> None:
    run, names, _ = corrected
    path = Path(run.path) / "review" / "decisions.jsonl"
    path.write_text(path.read_text().replace("[20.0,10.0,60.0,50.0]", "[20.0,10.0,60.0,500.0]"))
    with pytest.raises(DecisionError, match=f"the correction of image '{names[0]}': object"):
        list(export_items(run))
    assert len(DecisionLog(run.path)) == 4
