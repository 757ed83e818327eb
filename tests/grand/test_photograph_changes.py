"""Photographs that were replaced, and photographs that could not be read for a while."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from glamm_jax.grand import photograph_changes
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.execution import RunResult
from glamm_jax.grand.images import ImageOptions, ImageReader, image_stage, scan_images
from glamm_jax.grand.photograph_changes import PhotographChanges
from glamm_jax.grand.run_folder import AnnotationRun, SceneSections
from glamm_jax.grand.stages import StageGraph
from glamm_jax.storage import upload_folder
from tests.grand.toy_stages import calls, toy_graph, write_photographs

CHUNK = 3
LONG_AGO = 1_000_000_000


def _age(folder: Path) -> None:
    """Give the photographs a time that is no longer that of this test."""
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (LONG_AGO, LONG_AGO))


def _run(photographs: Path, folder: Path, graph: StageGraph | None = None) -> RunResult:
    run = AnnotationRun.create(folder, scan_images(photographs), photographs, CHUNK)
    return run_local(run, graph or toy_graph(), processes=1)


def _scenes(folder: Path, graph: StageGraph | None = None) -> dict[str, SceneSections]:
    return {x.image_id: x for x in AnnotationRun.open(folder).scenes(graph or toy_graph())}


def _sections(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.glob("stages/*/*/chunk*")
    }


def _replace(path: Path, seed: int = 99) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = write_photographs(tmp_path / "photos", 7)
    _age(folder)
    return folder


# ------------------------------------------------------------ replaced photographs


@pytest.mark.parametrize("seconds", [LONG_AGO + 1, None])
def test_a_replaced_photograph_is_annotated_again(
    seconds: int | None, photographs: Path, tmp_path: Path
) -> None:
    """Issue 17, section 7. The result is that of a run that never saw the old content."""
    out = tmp_path / "run"
    _run(photographs, out)
    before = _sections(out)
    _replace(photographs / "004.png")
    if seconds is not None:
        os.utime(photographs / "004.png", (seconds, seconds))
    result = _run(photographs, out)
    assert result.changes == PhotographChanges(replaced=1, chunks=1, names=("004.png",))
    assert result.computed_chunks == 4  # one chunk of four stages
    _run(photographs, tmp_path / "new")
    assert _sections(out) == _sections(tmp_path / "new") != before
    again = _run(photographs, out)
    assert (again.computed_chunks, again.changes) == (0, PhotographChanges())


def test_a_photograph_of_the_same_content_is_not(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once more: another time is stored, and the next run compares only this."""
    out = tmp_path / "run"
    _run(photographs, out)
    os.utime(photographs / "004.png", (LONG_AGO + 5, LONG_AGO + 5))
    read: list[str] = []
    original = ImageReader._read
    monkeypatch.setattr(
        ImageReader, "_read", lambda self, file: read.append(file) or original(self, file)
    )
    for expected in (["004.png"], []):
        read.clear()
        assert _run(photographs, out).computed_chunks == 0
        assert read == expected


def test_a_photograph_that_is_replaced_directly_after_it_was_written(tmp_path: Path) -> None:
    """Two contents of one size within the resolution of the clock of the file system."""
    folder, out = tmp_path / "photos", tmp_path / "run"
    folder.mkdir()
    path = folder / "a.bmp"
    _replace(path, 1)
    status = path.stat()
    _run(folder, out)
    _replace(path, 2)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert _run(folder, out).changes.replaced == 1


def test_a_damaged_photograph_that_was_repaired(photographs: Path, tmp_path: Path) -> None:
    out, damaged = tmp_path / "run", photographs / "002.png"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:100])
    assert _run(photographs, out).stages[0].rejected == 1
    assert _run(photographs, out).computed_chunks == 0  # although it is new
    damaged.write_bytes(content)
    result = _run(photographs, out)
    assert result.changes.names == ("002.png",)
    assert result.stages[0].rejected == 0
    assert _scenes(out)["002.png"].status == "ok"


def test_the_results_of_other_configurations_are_removed_too(
    photographs: Path, tmp_path: Path
) -> None:
    """Going back to an earlier configuration must not show annotations of the old content."""
    out, other = tmp_path / "run", StageGraph([image_stage(ImageOptions(min_side=3))])
    log = tmp_path / "log"
    _run(photographs, out)
    _run(photographs, out, toy_graph(factor=2))
    _run(photographs, out, other)
    _replace(photographs / "000.png")
    assert _run(photographs, out, other).changes.replaced == 1
    for factor in (1, 2):
        log.unlink(missing_ok=True)
        result = _run(photographs, out, toy_graph(str(log), factor=factor))
        assert ("size", "000.png", 0) in calls(log)
        assert result.changes == PhotographChanges()


def test_a_run_that_is_killed_while_it_removes_results(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    _run(photographs, out)
    _replace(photographs / "004.png")
    original = photograph_changes._remove
    removed: list[Any] = []

    def kill(path: Any) -> None:
        if len(removed) == 2:
            raise KeyboardInterrupt
        removed.append(path)
        original(path)

    with monkeypatch.context() as patch:
        patch.setattr(photograph_changes, "_remove", kill)
        with pytest.raises(KeyboardInterrupt):
            _run(photographs, out)
    assert _run(photographs, out).changes.replaced == 1
    _run(photographs, tmp_path / "new")
    assert _sections(out) == _sections(tmp_path / "new")


def test_without_stamps_contents_are_compared(photographs: Path, tmp_path: Path) -> None:
    """A power failure may have lost them."""
    out = tmp_path / "run"
    _run(photographs, out)
    for path in out.glob("stamps/*/*/*"):
        path.write_text("[1,")
    _replace(photographs / "006.png")
    result = _run(photographs, out)
    assert result.changes == PhotographChanges(replaced=1, chunks=1, names=("006.png",))
    assert all(json.loads(path.read_text()) for path in out.glob("stamps/*/*/*"))


def test_a_replaced_object_in_a_bucket(tmp_path: Path, bucket: epath.Path) -> None:
    photographs = write_photographs(tmp_path / "photos", 4, ["b c/ü.png"])
    upload_folder(photographs, bucket / "photos", last="")

    def run() -> RunResult:
        root = str(bucket / "photos")
        folder = AnnotationRun.create(bucket / "run", scan_images(root), root, CHUNK)
        return run_local(folder, toy_graph(), processes=1)

    run()
    assert run().computed_chunks == 0
    _replace(tmp_path / "new.png")
    (bucket / "photos" / "b c/ü.png").write_bytes((tmp_path / "new.png").read_bytes())
    result = run()
    assert result.changes == PhotographChanges(replaced=1, chunks=1, names=("b c/ü.png",))
    assert run().computed_chunks == 0


# ------------------------------------------------------------ photographs that cannot be read

Failure = Callable[[], Exception]
FAILURES: dict[str, Failure] = {
    "a disk": lambda: OSError(errno.EIO, os.strerror(errno.EIO)),
    "a network file system": lambda: OSError(errno.ESTALE, os.strerror(errno.ESTALE)),
    "a bucket": lambda: TimeoutError("the service did not answer"),
    "a client of a bucket": lambda: RuntimeError("429, too many requests"),
}


def _failing(monkeypatch: pytest.MonkeyPatch, failure: Failure, file: str, times: int) -> list[str]:
    """Let the first reads of a file fail; returns the list of all reads of it."""
    reads: list[str] = []
    original = ImageReader._read

    def read(self: ImageReader, name: str) -> bytes:
        if name == file:
            reads.append(name)
            if len(reads) <= times:
                raise failure()
        return original(self, name)

    monkeypatch.setattr(ImageReader, "_read", read)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    return reads


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_that_passes_changes_nothing(
    name: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(photographs, tmp_path / "undisturbed")
    reads = _failing(monkeypatch, FAILURES[name], "004.png", times=2)
    assert _run(photographs, tmp_path / "run").complete
    assert len(reads) == 3
    assert _sections(tmp_path / "run") == _sections(tmp_path / "undisturbed")


@pytest.mark.parametrize("name", FAILURES)
def test_an_error_that_stays_is_no_rejection_and_the_next_run_tries_again(
    name: str, photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        _failing(patch, FAILURES[name], "004.png", times=1000)
        for number in range(2):
            result = _run(photographs, out)
            # The second run only tries to read it.
            assert result.computed_chunks == (0 if number else 12)
            image, size = result.stages[0], result.stages[1]
            assert (image.failed, image.rejected, image.missing) == (1, 0, 0)
            assert (size.failed, size.skipped) == (0, 1)
        scene = _scenes(out)["004.png"]
        assert scene.status == "partial"
        assert scene.errors["image"].kind == "unread"
        assert scene.errors["image"].message.startswith("cannot be read: ")
        assert scene.errors["size"].message == scene.errors["image"].message
    result = _run(photographs, out)
    assert result.changes == PhotographChanges(readable=1, chunks=1, names=("004.png",))
    assert result.computed_chunks == 4
    _run(photographs, tmp_path / "undisturbed")
    assert _sections(out) == _sections(tmp_path / "undisturbed")
    assert not list(out.glob("unread/*/*/*"))


def test_an_error_in_a_later_stage(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are read again there if they are not kept; the seed stays the one of attempt 0."""
    out = tmp_path / "run"
    _run(photographs, tmp_path / "undisturbed")
    _run(photographs, out, toy_graph().with_inputs_of("size"))
    with monkeypatch.context() as patch:
        _failing(patch, FAILURES["a disk"], "004.png", times=1000)
        _run(photographs, out)
        scenes = _scenes(out)
        assert scenes["004.png"].errors["mean/colour"].kind == "unread"
        assert not scenes["003.png"].errors
    assert _run(photographs, out).changes.readable == 1
    assert _sections(out) == _sections(tmp_path / "undisturbed")


def test_a_file_that_may_not_be_read_or_is_gone(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = AnnotationRun.create(tmp_path / "run", scan_images(photographs), photographs, CHUNK)
    _failing(monkeypatch, lambda: PermissionError(errno.EACCES, "Permission denied"), "001.png", 1)
    away = (photographs / "005.png").rename(tmp_path / "away.png")
    run_local(run, toy_graph(), processes=1)
    scenes = _scenes(tmp_path / "run")
    assert scenes["001.png"].errors["image"].message == "cannot be read: Permission denied"
    assert scenes["005.png"].errors["image"].message == "no such file"
    away.rename(photographs / "005.png")
    result = run_local(run, toy_graph(), processes=1)
    assert result.changes == PhotographChanges(readable=2, chunks=2, names=("001.png", "005.png"))
    assert all(scene.status == "ok" for scene in _scenes(tmp_path / "run").values())


def test_photographs_that_are_gone_do_not_remove_results(photographs: Path, tmp_path: Path) -> None:
    """A disk that is not mounted is no reason to compute everything again."""
    run = AnnotationRun.create(tmp_path / "run", scan_images(photographs), photographs, CHUNK)
    run_local(run, toy_graph(), processes=1)
    away = photographs.rename(tmp_path / "away")
    assert run_local(run, toy_graph(), processes=1).computed_chunks == 0
    away.rename(photographs)
    assert run_local(run, toy_graph(), processes=1).changes == PhotographChanges()


def test_a_lack_of_memory_is_no_rejection(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glamm_jax.data import preprocess

    def fail(data: bytes) -> Any:
        raise MemoryError

    monkeypatch.setattr(preprocess, "_decode_plain_jpeg", fail)
    _run(photographs, tmp_path / "run")
    scene = _scenes(tmp_path / "run")["000.png"]
    assert scene.errors["image"].kind == "memory"
    assert scene.status == "partial"
