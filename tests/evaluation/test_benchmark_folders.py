"""Benchmarks of other repositories: their files, the scores of answers, what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.data.preprocess import open_image
from glamm_jax.evaluation.benchmarks import BENCHMARKS, grounding_suite, hallu_seg_bench
from glamm_jax.evaluation.benchmarks.base import FAILED, Prediction, TextScorers
from glamm_jax.evaluation.evaluation_run import EvaluationRun, GenerationConfig
from glamm_jax.evaluation.items import EvaluationData, ItemsError, ItemSet, open_items
from glamm_jax.inference.chat import Assistant
from glamm_jax.metrics.result import MODES, MetricResult
from tests.evaluation.benchmark_folders import (
    SIZE,
    first_expression,
    scenes,
    write_coco,
    write_grefcoco,
    write_grounding_suite,
    write_hallu_seg_bench,
    write_reason_seg,
)
from tests.evaluation.example_predictions import empty_prediction, perfect_prediction

WRITERS: dict[str, Callable[[Path], Path]] = {
    "reason_seg": write_reason_seg,
    "grefcoco": write_grefcoco,
    "grounding_suite": write_grounding_suite,
    "hallu_seg_bench": write_hallu_seg_bench,
    "chair": write_coco,
}
SPLITS = {"hallu_seg_bench": "test"}


def opened(name: str, folder: Path, prompt: str = "original", split: str = "") -> ItemSet:
    benchmark = BENCHMARKS[name]
    data = EvaluationData(str(folder), split or SPLITS.get(name, "val"))
    return open_items(benchmark, data, benchmark.prompt_template(prompt))


def scored(name: str, items: ItemSet, predictions: list[Prediction]) -> list[MetricResult]:
    by_id = {prediction.id: prediction for prediction in predictions}
    return [BENCHMARKS[name].score(items.items, by_id, mode, TextScorers()) for mode in MODES]


# Two more programs are compiled for teacher forcing.
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=[pytest.mark.slow] if x == "reason_seg" else []) for x in WRITERS],
)
def test_the_shipped_model_is_evaluated_end_to_end(
    name: str, tmp_path: Path, tiny_assistant: Assistant
) -> None:
    WRITERS[name](tmp_path / "data")
    data = EvaluationData(str(tmp_path / "data"), SPLITS.get(name, "val"))
    generation = GenerationConfig("ours", max_tokens=32, batch_size=8)
    run = EvaluationRun(BENCHMARKS[name], data, tmp_path / "out", generation)
    predictions = run.predict(tiny_assistant)
    scores = run.score(predictions, TextScorers())
    assert len(predictions) == len(run.item_set.items)
    assert not any(prediction.finish == FAILED for prediction in predictions.values())
    for mode in MODES:
        assert scores.modes[mode].scores
    assert "<img" in (tmp_path / "out" / "report.html").read_text()


# --------------------------------------------------------------------------------- ReasonSeg


def test_reason_seg_has_targets_ignored_pixels_and_prompts_by_kind(tmp_path: Path) -> None:
    item_set = opened("reason_seg", write_reason_seg(tmp_path))
    free = [item for item in item_set.items if not item.history]
    forced = [item for item in item_set.items if item.history]
    text, mask = first_expression(scenes(1)[0])
    assert free[0].prompt == f"What is {text} in this image? Please output segmentation mask."
    assert free[1].prompt == f"{free[1].reference_phrases[0]} Please output segmentation mask."
    assert [item.metadata["query"] for item in free] == ["short", "long"] * 2
    assert forced[0].history == ((free[0].prompt, "[SEG]."),)
    assert forced[0].max_tokens == 1
    ys, xs = np.nonzero(mask)
    box = np.zeros_like(mask)
    box[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] = True
    ignored = np.zeros_like(mask)
    ignored[:4, :4] = True
    np.testing.assert_array_equal(rle.decode(free[0].reference_masks[0]), box & ~ignored)
    assert free[0].ignored_masks[0] is not None
    np.testing.assert_array_equal(rle.decode(free[0].ignored_masks[0]), ignored)
    assert not item_set.notes
    other = opened("reason_seg", tmp_path, "Where is {name}?")
    assert other.items[2].prompt.startswith("Where is ")


def test_smaller_shapes_are_drawn_over_larger_ones_and_old_encodings_are_read(
    tmp_path: Path,
) -> None:
    folder = write_reason_seg(tmp_path, 1) / "ReasonSeg" / "val"
    big = [[0, 0], [39, 0], [39, 39], [0, 39]]
    small = [[10, 10], [19, 10], [19, 19], [10, 19]]
    shapes = [{"label": "ignore hole", "points": small}, {"label": "target", "points": big}]
    content = {"text": "caf\u00e9?", "is_sentence": True, "shapes": shapes}
    text = json.dumps(content, ensure_ascii=False)
    (folder / "0_0.json").write_bytes(text.encode("cp1252"))
    [item, _] = opened("reason_seg", tmp_path).items
    assert item.reference_phrases == ("café?",)
    assert rle.area(item.reference_masks[0]) == 40 * 40 - 10 * 10
    assert item.ignored_masks[0] is not None
    assert rle.area(item.ignored_masks[0]) == 10 * 10


def test_reason_seg_scores_all_short_and_long_queries_without_ignored_pixels(
    tmp_path: Path,
) -> None:
    item_set = opened("reason_seg", write_reason_seg(tmp_path))
    predictions = []
    for item in item_set.items:
        pixels = rle.decode(item.reference_masks[0])
        pixels[:4, :4] = True  # ignored
        if item.id == "1_0":  # a long query
            pixels = np.zeros_like(pixels)
        halves = pixels.copy(), pixels.copy()
        halves[0][:, 32:], halves[1][:, :32] = False, False
        masks = [pixels] if item.history else halves  # the union of an answer counts
        predictions.append(replace(empty_prediction(item), masks=tuple(map(rle.encode, masks))))
    for result in scored("reason_seg", item_set, predictions):
        for metric in ("gIoU", "cIoU", "gIoU, short", "free gIoU, short", "free cIoU, short"):
            assert result.scores[metric] == pytest.approx(1, abs=1e-4)
        assert result.scores["free gIoU, long"] == pytest.approx(0.5, abs=1e-4)
        assert result.scores["free gIoU"] == pytest.approx(0.75, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"is_sentence": "yes"}, "broken entry"),
        ({"text": []}, "empty text"),
        ({"shapes": [{"label": "target", "points": [[0, "x"]]}]}, "bad mask"),
        ({"shapes": [{"label": "target", "points": [[0, 1e9]]}]}, "bad mask"),
        ({"shapes": [{"points": [[0, 1]]}]}, "bad mask"),
    ],
)
def test_broken_annotations_of_reason_seg_are_named(
    tmp_path: Path, change: dict[str, object], kind: str
) -> None:
    file = write_reason_seg(tmp_path) / "ReasonSeg" / "val" / "2_0.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    item_set = opened("reason_seg", tmp_path)
    assert len(item_set.items) == 6
    assert list(item_set.notes) == [kind]
    assert item_set.notes[kind][0].startswith("val/2_0.json")


# --------------------------------------------------------------------------------- gRefCOCO


def test_grefcoco_has_one_several_and_no_targets(tmp_path: Path) -> None:
    item_set = opened("grefcoco", write_grefcoco(tmp_path))
    one, both, none = item_set.items[:3]
    text, _ = first_expression(scenes(1)[0])
    assert (one.id, one.prompt) == ("0/0", f"Please segment the {text} in the image.")
    assert both.prompt == "Please segment the both in the image."
    assert 0 < rle.area(one.reference_masks[0]) < rle.area(both.reference_masks[0])
    assert rle.area(none.reference_masks[0]) == 0
    assert [item.metadata for item in (one, both, none)] == [{}, {}, {"no_target": "yes"}]
    assert open_image(item_set.records[one.record].image).shape == (SIZE, SIZE, 3)


def test_no_seg_or_no_pixel_says_no_target_and_a_failure_says_nothing(tmp_path: Path) -> None:
    item_set = opened("grefcoco", write_grefcoco(tmp_path))
    empty = rle.encode(np.zeros((SIZE, SIZE), bool))
    right = [
        replace(perfect_prediction(item), masks=(empty,) if "no_target" in item.metadata else x)
        for item in item_set.items
        for x in [item.reference_masks]
    ]
    for result in scored("grefcoco", item_set, right):
        assert {*result.scores.values()} == {1.0}
    silent = [empty_prediction(item) for item in item_set.items]
    for result in scored("grefcoco", item_set, silent):
        assert (result.scores["N_acc"], result.scores["T_acc"]) == (1, 0)
        assert result.scores["gIoU"] == pytest.approx(1 / 3)
    failed = [replace(prediction, finish=FAILED) for prediction in silent]
    compat, strict = scored("grefcoco", item_set, failed)
    assert not compat.scores
    assert strict.scores["N_acc"] == strict.scores["gIoU"] == 0


def test_broken_references_of_grefcoco_are_named(tmp_path: Path) -> None:
    file = write_grefcoco(tmp_path) / "grefcoco" / "grefs(unc).json"
    refs = json.loads(file.read_text())
    refs[0]["ann_id"], refs[1]["image_id"], refs[2]["ann_id"] = [999], 999, None
    refs[3]["sentences"][0]["raw"] = refs[3]["sentences"][0]["sent"] = ""
    file.write_text(json.dumps(refs))
    item_set = opened("grefcoco", tmp_path)
    assert len(item_set.items) == 5
    assert {kind: len(where) for kind, where in item_set.notes.items()} == {
        "unknown id": 2,
        "broken entry": 1,
        "empty text": 1,
    }
    with pytest.raises(ItemsError, match="no split 'testA'; available: val"):
        opened("grefcoco", tmp_path, split="testA")


# ------------------------------------------------------------------------ GroundingSuite-Eval


def test_grounding_suite_gives_captions_groups_and_boxes(tmp_path: Path) -> None:
    item_set = opened("grounding_suite", write_grounding_suite(tmp_path))
    text, mask = first_expression(scenes(1)[0])
    first = item_set.items[0]
    assert first.prompt == f"Please segment the {text} in the image."
    np.testing.assert_array_equal(rle.decode(first.reference_masks[0]), mask)
    groups = [item.metadata["group"] for item in item_set.items]
    assert groups == ["stuff", "part", "multi", "single"]
    right = [perfect_prediction(item) for item in item_set.items]
    for result in scored("grounding_suite", item_set, right):
        assert {*result.scores.values()} == {1.0}
        assert "box_accuracy, part" in result.scores


def test_the_export_is_what_the_program_of_the_repository_reads(tmp_path: Path) -> None:
    item_set = opened("grounding_suite", write_grounding_suite(tmp_path))
    answers = [perfect_prediction(item_set.items[0]), empty_prediction(item_set.items[1])]
    assert grounding_suite.export(tmp_path, [*answers, Prediction("x", "x", "")]) == ["x"]
    lines = (tmp_path / "grounding_suite.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert first["segmentation"] == item_set.items[0].reference_masks[0]
    assert first["box"] == json.loads(item_set.items[0].metadata["box"])
    assert second == {"idx": 1, "image_path": "unlabeled2017/000000000001.jpg"}


def test_broken_lines_of_grounding_suite_are_named(tmp_path: Path) -> None:
    file = write_grounding_suite(tmp_path) / "GroundingSuite-Eval.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["segmentation"], lines[1]["box"] = {"size": [1, 1], "counts": "?"}, [1, 2]
    file.write_text("\n".join(map(json.dumps, lines)))
    item_set = opened("grounding_suite", tmp_path)
    assert [item.id for item in item_set.items] == ["2", "3"]
    assert {*item_set.notes} == {"bad mask", "broken entry"}
    file.write_text("{")
    with pytest.raises(ItemsError, match=r"jsonl: line 1: not valid JSON"):
        opened("grounding_suite", tmp_path)


# ------------------------------------------------------------------------------ HalluSegBench


def test_a_pair_of_hallu_seg_bench_is_four_items(tmp_path: Path) -> None:
    item_set = opened("hallu_seg_bench", write_hallu_seg_bench(tmp_path))
    (original, mask), (edited, other) = map(first_expression, scenes(2))
    by_id = {item.id: item for item in item_set.items}
    assert len(by_id) == 8
    for setting, text, pixels in (
        ("orgl_orgi", original, mask),
        ("edtl_orgi", edited, mask),
        ("orgl_edti", original, other),
        ("edtl_edti", edited, other),
    ):
        item = by_id[f"{setting}/0_100"]
        assert item.prompt == f"Please segment the {text} in the image."
        np.testing.assert_array_equal(rle.decode(item.reference_masks[0]), pixels)
    answers = [
        empty_prediction(item) if item.reference_texts else perfect_prediction(item)
        for item in item_set.items
    ]
    for result in scored("hallu_seg_bench", item_set, answers):
        assert result.scores["IoU_factual"] == result.scores["dIoU_visual"] == 1
        assert result.scores["CMS_factual"] == 0


def test_the_exported_masks_have_the_names_of_the_repository(tmp_path: Path) -> None:
    item_set = opened("hallu_seg_bench", write_hallu_seg_bench(tmp_path / "data"))
    first, second, third, *_ = item_set.items
    failed = replace(empty_prediction(third), finish=FAILED)
    answers = [perfect_prediction(first), empty_prediction(second), failed, Prediction("x", "", "")]
    assert hallu_seg_bench.export(tmp_path, answers) == ["x"]
    with Image.open(tmp_path / "orgl_orgi" / "0_100_mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image) > 0, rle.decode(first.reference_masks[0]))
    with Image.open(tmp_path / "edtl_orgi" / "0_100_mask.png") as image:
        assert not np.asarray(image).any()
    assert len([*tmp_path.glob("*/*_mask.png")]) == 2


def test_questions_replace_labels_and_broken_pairs_are_named(tmp_path: Path) -> None:
    file = write_hallu_seg_bench(tmp_path) / "data.json"
    pairs = json.loads(file.read_text())
    pairs[0] |= {"question": "What shines?", "counterfactual_question": "What rolls?"}
    pairs[1]["factual_mask_path"] = "factual_masks/none.png"
    file.write_text(json.dumps([*pairs, {"ann_id": 1}]))
    item_set = opened("hallu_seg_bench", tmp_path)
    assert item_set.items[0].prompt == "What shines? Please output segmentation mask."
    assert len(item_set.items) == 4
    assert {*item_set.notes} == {"missing mask", "broken entry"}
    with pytest.raises(ItemsError, match=r"read from its own files only"):
        opened("hallu_seg_bench", Path("miniworld/easy@64"))


# -------------------------------------------------------------------------------------- CHAIR


def test_chair_takes_objects_from_instances_and_captions(tmp_path: Path) -> None:
    item_set = opened("chair", write_coco(tmp_path))
    assert [item.metadata["objects"] for item in item_set.items] == ["dog"] * 3
    texts = ["A dog and a cat.", "A horse, a dog.", "Nothing."]
    answers = [
        replace(empty_prediction(item), text=text)
        for item, text in zip(item_set.items, texts, strict=True)
    ]
    for result in scored("chair", item_set, answers):
        assert result.scores["CHAIRi"] == pytest.approx(1 / 4)
        assert result.scores["CHAIRs"] == pytest.approx(1 / 3)
    assert scored("chair", item_set, answers)[1].scores["object_recall"] == pytest.approx(3 / 6)


def test_files_of_coco_that_do_not_fit_are_named(tmp_path: Path) -> None:
    file = write_coco(tmp_path) / "annotations" / "instances_val2014.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["category_id"] = 77
    file.write_text(json.dumps(content))
    item_set = opened("chair", tmp_path)
    assert len(item_set.items) == 3
    assert list(item_set.notes) == ["unknown id"]
    with pytest.raises(ItemsError, match=r"no instances_train2014.json"):
        opened("chair", tmp_path, split="train")
