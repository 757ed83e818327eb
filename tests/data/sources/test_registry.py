"""Every dataset has one name, and a name that nobody knows is answered with those that are."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from glamm_jax.data.sources import grandf, jsonl, registry
from glamm_jax.data.sources.reading import SourceError


def test_every_family_of_the_package_is_found() -> None:
    known = registry.datasets()
    assert known["jsonl"] is jsonl.JsonlSource
    assert known.items() >= grandf.DATASETS.items()
    assert list(known) == sorted(known)


def test_an_unknown_name_is_answered_with_the_nearest_and_the_known() -> None:
    with pytest.raises(SourceError, match=r"'refcoc'; did you mean 'refcoco'\? known are ade20k, "):
        registry.find_dataset("refcoc")
    with pytest.raises(SourceError, match=r"no dataset 'xyz'; known are .*jsonl"):
        registry.find_dataset("xyz")


def test_two_readers_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("twin")
    vars(module)["DATASETS"] = {"jsonl": jsonl.JsonlSource}
    monkeypatch.setattr(registry, "import_module", lambda name: module)
    with pytest.raises(ValueError, match="jsonl has a reader already"):
        registry.datasets()


def test_an_optional_library_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys; from glamm_jax.data.sources.registry import datasets; datasets(); "
        "print('lmdb' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
