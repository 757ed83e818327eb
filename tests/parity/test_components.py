"""The part `components`: agreement with two recordings, and detection of changes in them.

`make parity` compares all full-size recordings; these two are fast enough to run here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.parity.tampering import change_array, failed_names, run
from tools.parity import components
from tools.parity.report import GoldenError

QUICK = ("lora_linear", "mm_projector")


def copy_components(goldens: Path, folder: Path, *names: str) -> Path:
    """Write a golden folder with some of the components; each costs seconds to compare."""
    root = folder / "components"
    root.mkdir()
    info = json.loads((goldens / "components" / "info.json").read_text())
    (root / "info.json").write_text(json.dumps({name: info[name] for name in names}))
    for name in names:
        (root / f"{name}.npz").write_bytes((goldens / "components" / f"{name}.npz").read_bytes())
    return folder


@pytest.fixture
def folder(goldens: Path, tmp_path: Path) -> Path:
    """A golden folder with LoRA alone."""
    return copy_components(goldens, tmp_path, "lora_linear")


def test_lora_and_projections_agree_at_full_width(goldens: Path, tmp_path: Path) -> None:
    report = run(components.check, copy_components(goldens, tmp_path, *QUICK))
    assert report.failures == []
    compared = [row for row in report.rows if row.verdict == "equal"]
    assert len(compared) >= 9
    assert all(row.error is not None and row.error <= 1e-5 for row in compared)


@pytest.mark.parametrize(
    ("file", "entry", "name"),
    [
        ("lora_linear", "q_after_merge__val", "q_after_merge"),
        ("lora_linear", "merged_q_weight__val", "merged_q_weight"),
        ("lora_linear", "v__val", "v"),
        ("mm_projector", "out__val", "out"),
        ("mm_projector", "in/x__val", "in/x"),
        ("mm_projector", "text_out", "text_out"),
    ],
)
def test_one_changed_number_is_detected(
    goldens: Path, tmp_path: Path, file: str, entry: str, name: str
) -> None:
    folder = copy_components(goldens, tmp_path, file)
    change_array(folder / "components" / f"{file}.npz", entry)
    assert failed_names(components.check, folder) == {name}


def test_the_content_of_a_file_follows_from_its_description_not_from_its_name(folder: Path) -> None:
    root = folder / "components"
    info = json.loads((root / "info.json").read_text())
    info["renamed"] = info.pop("lora_linear")
    (root / "info.json").write_text(json.dumps(info))
    (root / "lora_linear.npz").rename(root / "renamed.npz")
    assert failed_names(components.check, folder) == set()


def test_a_file_that_is_not_described_is_named(folder: Path) -> None:
    root = folder / "components"
    (root / "extra.npz").write_bytes((root / "lora_linear.npz").read_bytes())
    failures = [row for row in run(components.check, folder).failures if "extra" in row.file]
    assert [row.verdict for row in failures] == ["unknown"]


def test_an_unknown_key_of_the_description_is_a_failure(folder: Path) -> None:
    path = folder / "components" / "info.json"
    info = json.loads(path.read_text())
    info["lora_linear"] |= {"phlogiston": 1, "scaling": 2.01}
    path.write_text(json.dumps(info))
    assert failed_names(components.check, folder) == {
        "lora_linear.phlogiston",
        "lora_linear.scaling",
    }


def test_an_empty_description_is_broken(folder: Path) -> None:
    (folder / "components" / "info.json").write_text("{}")
    with pytest.raises(GoldenError, match="describes nothing"):
        run(components.check, folder)


def test_an_unknown_kind_of_component_fails_with_every_array(folder: Path) -> None:
    root = folder / "components"
    (root / "info.json").write_text(json.dumps({"lora_linear": {"salt": ""}}))
    assert "q_base_only" in failed_names(components.check, folder)
