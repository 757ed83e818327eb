"""Folders of scenes for the tests of the annotation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from glamm_jax.miniworld.truth_folder import write_scenes
from glamm_jax.miniworld.world import FULL


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 scenes with all features of the mini-world."""
    folder = tmp_path_factory.mktemp("oracles") / "scenes"
    write_scenes(folder, FULL, seed=1, count=16, size=128)
    return folder


class _Bucket(MemoryFileSystem):
    """A file system in memory; paths and calls are those of gs://."""

    protocol = ("gs", "gcs")
    store: dict[str, Any] = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(str(path).replace("gs://", "memory://"))


@pytest.fixture
def bucket_system(monkeypatch: pytest.MonkeyPatch) -> MemoryFileSystem:
    """What stands for the service of gs://; epath keeps it, so all tests have the same."""
    for protocol in ("gs", "gcs"):
        fsspec.register_implementation(protocol, _Bucket, clobber=True)
    monkeypatch.setenv("EPATH_USE_TF", "false")
    return _Bucket()
