"""The part `grand` agrees with the recording, and a change of any step's output is detected."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.parity.tampering import failed_names, run
from tools.parity import grand
from tools.parity.report import GoldenError
from tools.parity.run import list_parts, run_parts


def write_step(folder: Path, step: str, cases: list[Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{step}.json.gz").write_bytes(gzip.compress(json.dumps(cases).encode()))


def cases_of(goldens: Path, step: str, *names: str) -> list[Any]:
    """The recorded cases, those of a name alone."""
    cases = grand.read_cases(goldens / "grand" / f"{step}.json.gz")
    return [
        {"case": name, "input": given, "output": output}
        for name, (given, output) in cases.items()
        if not names or name in names
    ]


@pytest.mark.slow  # `make parity` compares the same files
def test_every_case_of_every_step_is_equal_or_was_an_error_in_the_original(goldens):
    report = run(grand.check, goldens)
    assert report.failures == []
    assert report.broken == []
    rows = {
        verdict: [row for row in report.rows if row.verdict == verdict]
        for verdict in ("equal", "excluded")
    }
    assert len(rows["equal"]) == 876
    assert len(rows["excluded"]) == 28
    assert all(" in the original; here " in row.note for row in rows["excluded"])
    assert {row.file for row in rows["equal"]} == {f"grand/{s}.json.gz" for s in grand.STEPS}


@pytest.mark.parametrize(
    ("step", "case", "keys"),
    [
        ("10a_merge_nms", "rand_00", ("sa_1000.jpg", "pomp", 0, "score")),
        ("10b_fusion", "rand_00", (None, "objects", 0, "bbox", 2)),
        ("13_mdetr", "rand_00", (None, "mdetr-re", 1, "label")),
        ("13_phrases", "edge_06", ("extractor_1", None, 0, 1)),
        ("14a_merge", "rand_07", (None, "llava")),
        ("14b_relations", "rand_00", (None, "relationships", "grounding", 0, "object_ids", 0)),
        ("15_attributes", "edge_stop_string", (None, "objects", 0, "attributes", 0)),
        ("16_label_candidates", "rand_03", ("0", "crop_size", 0)),
        ("17_label_depth", "rand_01", (None, "objects", 0, "label")),
        ("18_graph_level3", "edge_floats_only", ("text",)),
        ("19_graph_level4", "edge_floats_only", ("text",)),
        ("20a_short_ground", "edge_nfkc", (None, "short_captions", 0, "details", 0, "id")),
        ("20b_dense_ground", "edge_noun_one_hit", (None, "dense_caption", "caption")),
        ("21_masks", "edge_float_too", (None, "floating_objects", 0, "segmentation_source")),
        ("22_hq_sam", "rand_00", ("prompts_as_built", 0, 3)),
        ("23_context", "edge_prefixes", (None, "additional_context")),
        ("exp_objects", "edge_prefixes", (None, 0, "id")),
        ("exp_referring", "edge_prefixes", (None, 1, "attribute")),
        ("exp_captions", "edge_caption_float", (None, 0, "details", 0, "tokens_positive", 1)),
    ],
    ids=str,
)
def test_one_changed_value_is_reported_by_case_and_field(goldens, tmp_path, step, case, keys):
    cases = cases_of(goldens, step, case)
    parent = cases[0]["output"]
    for key in keys[:-1]:
        parent = next(iter(parent.values())) if key is None else parent[key]
    old = parent[keys[-1]]
    parent[keys[-1]] = old + "x" if isinstance(old, str) else old + 1
    write_step(tmp_path / "grand", step, cases)
    report = run(grand.check, tmp_path)
    assert [row.name for row in report.failures] == [case]
    assert str(keys[-1]) in report.failures[0].note


def test_a_changed_step_of_a_chain_is_named_with_its_step(goldens, tmp_path):
    cases = cases_of(goldens, "chain", "chain_00")
    for item in cases[0]["output"]["17"].values():
        item["objects"][0]["depth"] += 0.01  # within the tolerance
    write_step(tmp_path / "grand", "chain", cases)
    assert failed_names(grand.check, tmp_path) == set()
    for item in cases[0]["output"]["17"].values():
        item["objects"][0]["depth"] += 0.01
    write_step(tmp_path / "grand", "chain", cases)
    report = run(grand.check, tmp_path)
    assert "chain_00" in {row.name for row in report.failures}
    assert all("17." in row.note for row in report.failures if row.name == "chain_00")


def test_affordances_of_labels_that_are_not_shared_do_not_count(goldens, tmp_path):
    cases = cases_of(goldens, "10b_fusion", "edge_affordances")
    (record,) = cases[0]["output"].values()
    record["affordances"]["Sit"]["labels"].append("not in the recordings")
    record["affordances"]["Dance"] = {"description": "", "object_ids": [0], "labels": ["new"]}
    write_step(tmp_path / "grand", "10b_fusion", cases)
    assert failed_names(grand.check, tmp_path) == {"edge_affordances"}
    record["affordances"]["Sit"]["labels"].pop()
    write_step(tmp_path / "grand", "10b_fusion", cases)
    assert failed_names(grand.check, tmp_path) == set()


def test_a_folder_of_another_seed_is_compared_as_it_is(goldens, tmp_path):
    write_step(tmp_path, "23_context", cases_of(goldens, "23_context"))
    assert list_parts(tmp_path) == ["grand"]
    assert run_parts(tmp_path, ["grand"]).exit_code == 0


def test_an_absent_or_broken_file_is_named(goldens, tmp_path):
    with pytest.raises(GoldenError, match="grand: no such folder"):
        run(grand.check, tmp_path)
    (tmp_path / "grand").mkdir()
    with pytest.raises(GoldenError, match="no 10a_merge_nms"):
        run(grand.check, tmp_path)
    (tmp_path / "grand" / "23_context.json.gz").write_bytes(b"no gzip")
    (tmp_path / "grand" / "index.json").write_text('{"10b_fusion": {"a": []}}')
    (tmp_path / "grand" / "more.txt").write_text("")
    report = run(grand.check, tmp_path)
    assert [message.split(": ")[1] for message in report.broken] == [
        "cannot be read",
        "no such file",
    ]
    assert [row.name for row in report.rows] == ["more.txt"] or report.failures
