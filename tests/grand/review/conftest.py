"""A run of six scenes, and copies of it that tests review."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from glamm_jax.cli.annotate import main
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.miniworld.truth_folder import write_scenes
from glamm_jax.miniworld.world import FULL

ROOT = Path(__file__).resolve().parents[3]
ROLES = ROOT / "configs" / "annotate"


@pytest.fixture(scope="session")
def annotated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six scenes with the errors of noisy.toml, in two chunks."""
    folder = tmp_path_factory.mktemp("review")
    write_scenes(folder / "scenes", FULL, seed=0, count=6, size=128)
    options = ("--out", folder / "run", "--roles", ROLES / "noisy.toml", "--workers", 1)
    arguments = ["run", folder / "scenes" / "images", *options, "--chunk-size", 4]
    assert main([str(argument) for argument in arguments]) == 0
    return folder / "run"


@pytest.fixture
def review_run(annotated_folder: Path, tmp_path: Path) -> Iterator[AnnotationRun]:
    """A copy of the run; its automatic files must not change."""
    shutil.copytree(annotated_folder, tmp_path / "run")
    before = automatic_files(tmp_path / "run")
    assert any("/annotations/" in name for name in before)
    yield AnnotationRun.open(tmp_path / "run")
    assert automatic_files(tmp_path / "run") == before


def automatic_files(folder: Path) -> dict[str, bytes]:
    """The content of all files that the run has written."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if path.is_file() and not name.startswith("review/") and name != "report.html"
    }
