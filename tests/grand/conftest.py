"""Folders of scenes for the tests of the annotation."""

from __future__ import annotations

from pathlib import Path

import pytest

from glamm_jax.miniworld.truth_folder import write_scenes
from glamm_jax.miniworld.world import FULL


@pytest.fixture(scope="session")
def scene_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 16 scenes with all features of the mini-world."""
    folder = tmp_path_factory.mktemp("oracles") / "scenes"
    write_scenes(folder, FULL, seed=1, count=16, size=128)
    return folder
