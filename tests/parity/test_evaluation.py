"""The part `evaluation` agrees with the recording, and notices whatever is changed in it."""

from __future__ import annotations

import json
import re
import shutil
from contextlib import nullcontext
from typing import Any

import pytest

from glamm_jax.metrics.result import MetricError, MetricResult
from tests.parity.tampering import change_array, change_json, copy_parts, failed_names, run
from tools.parity import evaluation
from tools.parity.report import ComparisonReport, GoldenError

GCG = ("gcg_expected.json", "gcg_gt", "gcg_pred", "text_similarity.json")
REFERRING = ("refseg_expected.json", "refseg_cases.npz")
REGIONS = ("regcap_expected.json", "regcap_annotations.json", "regcap_results.json")


@pytest.fixture
def part(goldens, tmp_path):
    return copy_parts(goldens, tmp_path, "evaluation") / "evaluation"


def keep(part, *names):
    """Remove all other files of the part."""
    for path in part.iterdir():
        if path.name not in names:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return part.parent


def moved(value: Any) -> Any:
    """Every number moved by 1e-2, whole ones by 1; texts and empty lists made longer."""
    if isinstance(value, dict):
        return {name: moved(each) for name, each in value.items()}
    if isinstance(value, list):
        return [moved(each) for each in value] if value else [[0, 0]]
    if isinstance(value, str):
        return f"{value}x"
    return value + (1 if isinstance(value, int) else 1e-2)


@pytest.fixture(scope="module")
def ledger(goldens):
    return run(evaluation.check, goldens)


def test_every_number_agrees_or_has_a_reason(ledger):
    assert (ledger.failures, ledger.broken) == ([], [])
    assert sum(row.verdict == "equal" for row in ledger.rows) == 488
    assert all(row.note for row in ledger.rows if row.verdict == "excluded")
    expected = [row for row in ledger.rows if row.file.endswith("_expected.json")]
    excluded = {row.name for row in expected if row.verdict == "excluded"}
    assert {name.partition(".")[0] for name in excluded} == {"special_images", "spice"}


def test_every_changed_number_is_noticed(part):
    """All at once: each must fail by itself."""
    texts = {"special_images", "spice"}
    for name in ("gcg_expected.json", "regcap_expected.json", "ptb_tokenizer.json"):
        value = json.loads((part / name).read_text("utf-8"))
        kept = texts | ({"inputs"} if name.startswith("ptb") else set())
        changed = {key: each if key in kept else moved(each) for key, each in value.items()}
        (part / name).write_text(json.dumps(changed), "utf-8")
    ledger = run(evaluation.check, part.parent)
    assert ledger.broken == []
    expected = {
        "evaluation/gcg_expected.json",
        "evaluation/regcap_expected.json",
        "evaluation/ptb_tokenizer.json",
    }
    rows = [row for row in ledger.rows if row.file in expected and row.verdict != "excluded"]
    assert [row.name for row in rows if not row.failed] == []
    # AP; mIoU, recall, order, lines; captions of all, of each image, of regions; tokens
    assert len(rows) == 12 + 8 + 7 + 140 + 7 + 1


@pytest.mark.parametrize(
    "keys", [("gIoU",), ("cIoU",), ("n",), ("per_batch_alone", 3, 0), ("per_batch_alone", 9, 1)]
)
def test_one_changed_number_of_referring_segmentation_is_noticed(part, keys):
    folder = keep(part, *REFERRING)
    change_json(part / REFERRING[0], keys)
    assert failed_names(evaluation.check, folder) == {keys[0]}


@pytest.mark.parametrize("case", [0, 4, 7])
def test_a_changed_truth_of_referring_segmentation_is_noticed(part, case):
    folder = keep(part, *REFERRING)
    change_array(part / REFERRING[1], f"gt{case}")
    assert "per_batch_alone" in failed_names(evaluation.check, folder)


@pytest.fixture
def silent(monkeypatch):
    """Without captions, which need seconds of Java: masks alone are looked at."""
    monkeypatch.setattr(evaluation, "meteor_process", nullcontext)
    monkeypatch.setattr(evaluation.evaluation_gcg.GCGCase, "captions", lambda *_: MetricResult({}))


def failed(part) -> tuple[set[str], list[str]]:
    """What fails beside the captions, and what is broken."""
    ledger = run(evaluation.check, keep(part, *GCG))
    words = re.compile("caption_metrics|printed_lines")
    return {row.name for row in ledger.failures if not words.match(row.name)}, ledger.broken


@pytest.mark.usefixtures("silent")
class TestMasks:
    @pytest.mark.parametrize(
        ("file", "keys", "named"),
        [
            ("gcg_gt/val_gcg_coco_mask_gt.json", ("annotations", 3, "area"), "annotations[3].area"),
            (
                "gcg_gt/val_gcg_coco_mask_gt.json",
                ("annotations", 3, "bbox", 1),
                "annotations[3].bbox",
            ),
            ("gcg_gt/val_gcg_coco_mask_gt.json", ("images", 2, "width"), "images[2].width"),
            ("gcg_pred/sa_1004.json", ("image_id",), "image_id"),
            ("gcg_pred/sa_1009.json", ("phrases", 0), None),
            ("text_similarity.json", ("similarity", 3, 5), "similarity"),
        ],
    )
    def test_one_changed_input_is_noticed(self, part, file, keys, named):
        change_json(part / file, keys)
        names, broken = failed(part)
        if named is None:
            assert len(broken) == 1 and "no phrase" in broken[0]
        else:
            assert (names, broken) == ({named}, [])

    def test_a_prediction_may_stand_under_a_key_of_its_own(self, part):
        for path in (part / "gcg_pred").iterdir():
            fields = json.loads(path.read_text("utf-8"))
            del fields["image_id"]
            path.write_text(json.dumps({path.stem: fields}), "utf-8")
        assert failed(part) == (set(), [])

    def test_an_unknown_field_fails_and_a_stranger_is_mentioned(self, part):
        path = part / "gcg_pred" / "sa_1000.json"
        fields = json.loads(path.read_text("utf-8"))
        path.write_text(json.dumps({**fields, "mood": 1}), "utf-8")
        (part / "gcg_pred" / "sa_1.json").write_text("{}", "utf-8")
        assert failed(part) == ({"mood"}, [])
        rows = run(evaluation.check, part.parent).rows
        assert any(row.file == "gcg_pred/sa_1.json" and row.verdict == "excluded" for row in rows)

    @pytest.mark.parametrize("name", ["gcg_gt", "gcg_pred", "text_similarity.json"])
    def test_an_absent_input_is_broken(self, part, name):
        path = part / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        _, broken = failed(part)
        assert len(broken) == 1 and name in broken[0]

    def test_a_broken_mask_is_named(self, part):
        path = part / "gcg_pred" / "sa_1000.json"
        fields = json.loads(path.read_text("utf-8"))
        fields["pred_masks"][1]["counts"] = "o"
        path.write_text(json.dumps(fields), "utf-8")
        _, broken = failed(part)
        assert len(broken) == 1 and "sa_1000: mask 1 of the prediction" in broken[0]


@pytest.mark.parametrize("name", ["refseg_expected.json", "refseg_cases.npz"])
def test_a_broken_file_is_named(part, name):
    folder = keep(part, *REFERRING)
    (part / name).write_bytes(b"broken")
    assert name in run(evaluation.check, folder).broken[0]


def test_what_is_absent_is_no_case_and_inputs_without_numbers_are_mentioned(part):
    folder = keep(part, "refseg_cases.npz", "regcap_results.json")
    ledger = run(evaluation.check, folder)
    assert ledger.exit_code == 0
    assert {(row.file, row.verdict) for row in ledger.rows} == {
        ("evaluation/refseg_cases.npz", "excluded"),
        ("evaluation/regcap_results.json", "excluded"),
    }


def test_an_unknown_file_fails(part):
    folder = keep(part, *REFERRING)
    (part / "poems.json").write_text("{}", "utf-8")
    rows = run(evaluation.check, folder).failures
    assert [row.file for row in rows] == ["evaluation/poems.json"]


def test_no_java_is_an_error_that_says_what_to_install(part, monkeypatch):
    def missing():
        raise MetricError("install the extra `eval`")

    monkeypatch.setattr(evaluation, "meteor_process", missing)
    with pytest.raises(GoldenError, match="install the extra"):
        evaluation.check(keep(part, *REGIONS), ComparisonReport())


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(GoldenError, match="no such folder"):
        evaluation.check(tmp_path, ComparisonReport())
