"""Every dataset has one name, and the error for an unknown name lists the available ones."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from types import ModuleType

import pytest

from glamm_jax.data.sources import grandf, jsonl, registry
from glamm_jax.data.sources.defects import SourceError
from tests.conftest import ROOT
from tests.data.sources.small_datasets import FIXTURES, read_all


def test_every_family_of_the_package_is_found() -> None:
    datasets = registry.datasets()
    assert datasets["jsonl"] is jsonl.JsonlSource
    assert datasets.items() >= grandf.DATASETS.items()
    assert list(datasets) == sorted(datasets)


def test_an_unknown_name_is_answered_with_the_nearest_and_the_known() -> None:
    with pytest.raises(
        SourceError, match=r"'refcoc'; did you mean 'refcoco'\? available: ade20k, "
    ):
        registry.find_dataset("refcoc")
    with pytest.raises(SourceError, match=r"no dataset 'xyz'; available: .*jsonl"):
        registry.find_dataset("xyz")


def test_two_readers_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("twin")
    vars(module)["DATASETS"] = {"jsonl": jsonl.JsonlSource}
    monkeypatch.setattr(registry, "import_module", lambda name: module)
    with pytest.raises(ValueError, match="jsonl is registered already"):
        registry.datasets()


def test_an_optional_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from glamm_jax.data.sources.registry import datasets; datasets(); "
        "print('lmdb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def _documented() -> dict[str, list[str]]:
    """Name -> annotations, images, splits, tasks: the rows of docs/datasets.md."""
    lines = (ROOT / "docs" / "datasets.md").read_text("utf-8").splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {name: row[1:] for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


def test_every_dataset_is_documented_with_the_files_that_it_reads() -> None:
    documented = _documented()
    assert sorted(documented) == list(registry.datasets())
    for files, *_ in documented.values():
        for place in re.findall(r"`([^`*{]+/[^`*{]+)`", files):
            assert (FIXTURES / place).exists(), place


@pytest.mark.parametrize("name", sorted(set(registry.datasets()) - {"jsonl"}))
def test_every_dataset_has_the_documented_splits_and_tasks(name: str) -> None:
    _, _, splits, tasks = _documented()[name]
    make = registry.find_dataset(name)
    with pytest.raises(SourceError, match="no split 'none'; ") as error:
        make(FIXTURES, "none")
    available = str(error.value).partition("; ")[2]
    for split in splits.split(", "):
        assert split in available
        with contextlib.suppress(SourceError):  # the fixtures do not have everything
            results = read_all(make(FIXTURES, split)).values()
            records = [result.record for result in results if result.record is not None]
            read_tasks = {item.task for record in records for item in record.annotations}
            assert read_tasks <= set(tasks.split(", "))
