"""Every row of grand.md 5.5, and images of every kind, through `glamm-jax annotate`.

One run of the program over images whose names say what goes wrong. The loss of workers and a full
disk are in tests/grand/test_execution.py, replaced and unreadable photographs in
tests/grand/test_photograph_changes.py.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from glamm_jax.cli.annotate import main
from glamm_jax.files import FileLock
from glamm_jax.grand import chunks
from glamm_jax.grand.execution import ChunkWorker
from glamm_jax.grand.run_folder import AnnotationRun, SceneSections
from glamm_jax.grand.stages import Stage
from tests.grand.scripted_roles import ANSWERS, CAPTION, CONTEXT, write_roles

SIZE = (64, 48)  # width and height
PIXELS = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
Save = Callable[[Path], None]


def _save(mode: str = "RGB", kind: str = "PNG") -> Save:
    return lambda path: Image.fromarray(PIXELS).convert(mode).save(path, kind)


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(PIXELS).save(path, "JPEG", exif=exif)


def _bits16(path: Path) -> None:
    Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257).save(path, "PNG")


def _wide(path: Path) -> None:
    Image.new("RGB", (20_000, 16), (10, 20, 30)).save(path, "PNG")


# Names of images that can be annotated, and their upright sizes.
KINDS: dict[str, tuple[Save, tuple[int, int]]] = {
    "plain.png": (_save(), SIZE),
    "same stem.png": (_save(), SIZE),
    "same stem.jpg": (_save("RGB", "JPEG"), SIZE),
    "ünï 狗.png": (_save(), SIZE),
    "folder/plain.png": (_save(), SIZE),
    "no extension": (_save(), SIZE),
    "rotated.jpg": (_rotated, (48, 64)),
    "16 bits.png": (_bits16, SIZE),
    "cmyk.jpg": (_save("CMYK", "JPEG"), SIZE),
    "20000 pixels.png": (_wide, (20_000, 16)),
}
REJECTED: dict[str, tuple[Save, str]] = {
    "text.png": (lambda path: _write(path, b"no image"), "not a readable image"),
    "empty.png": (lambda path: _write(path, b""), "not a readable image"),
    "one pixel.png": (
        lambda path: Image.new("RGB", (1, 1)).save(path),
        "1 x 1 pixels; a side has at least 16",
    ),
    "20000 x 20000.png": (
        lambda path: Image.new("1", (20_000, 20_000)).save(path),
        "too large (400000000 pixels",
    ),
}
FAILING = (
    *("raises.png", "invalid.png", "one missing.png", "two missing.png"),
    *("mask of another size.png", "no run lengths.png"),
)
OTHERS = (
    *("large.png", "nothing.png", "checklist.png"),
    *("empty mask.png", "mask elsewhere.png", "empty mask twice.png"),
    *(f"{word}.png" for word in ANSWERS),
)
NUM_PARTIAL = len(FAILING)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _arguments(folder: Path, *options: object) -> list[str]:
    roles = write_roles(folder / "roles.toml")
    arguments = ("--roles", roles, "--trust-roles", "--workers", 1, "--set", "fusion.min_sources=2")
    return ["run", str(folder / "photos"), *map(str, (*arguments, *options))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failures")
    photos = folder / "photos"
    (photos / "folder").mkdir(parents=True)
    savers = {name: save for name, (save, _) in {**KINDS, **REJECTED}.items()}
    savers |= dict.fromkeys((*FAILING, *OTHERS), _save())
    for name, save in savers.items():
        save(photos / name)
    assert main(_arguments(folder, "--out", folder / "run", "--allow-failures", 0.5)) == 0
    return folder


@pytest.fixture(scope="module")
def scenes(folder: Path) -> dict[str, SceneSections]:
    return {scene.image_id: scene for scene in AnnotationRun.open(folder / "run").scenes()}


@pytest.fixture(scope="module")
def exported(folder: Path) -> dict[str, Any]:
    """The annotations of `export --format grand-json`, by the name of the image."""
    return _exported(folder, folder / "export")


def _exported(folder: Path, out: Path, *options: str) -> dict[str, Any]:
    arguments = ["export", str(folder / "run"), "--format", "grand-json", "--out", str(out)]
    assert main([*arguments, "--images", "copy", *options]) == 0
    values: dict[str, Any] = {}
    for path in out.rglob("*.json"):
        if path.name != "export.json":
            values |= json.loads(path.read_text())
    return values


def _dropped(out: Path) -> dict[str, int]:
    return json.loads((out / "export.json").read_text())["dropped"]


def _record(scene: SceneSections) -> dict[str, Any]:
    return scene.sections["annotations"]["record"]


# ------------------------------------------------------------ images of every kind


@pytest.mark.parametrize("name", KINDS)
def test_images_and_names_of_every_kind_are_annotated_and_exported(
    name: str, scenes: dict[str, SceneSections], exported: dict[str, Any]
) -> None:
    """Issue 17, section 7: rotation, depths of colour, sizes, names."""
    scene = scenes[name]
    assert scene.status == "ok"
    image = scene.sections["image"]
    assert (image["width"], image["height"]) == KINDS[name][1]
    (item,) = _record(scene)["objects"]
    assert item["segmentation"]["size"] == [image["height"], image["width"]]
    assert exported[name.replace("/", "__")]["dense_caption"]["caption"] == CAPTION


@pytest.mark.parametrize("name", REJECTED)
def test_images_that_cannot_be_used_are_rejected(
    name: str, scenes: dict[str, SceneSections], exported: dict[str, Any], folder: Path
) -> None:
    """5.5: undecodable, too small, wrong size: rejected, carried through, not exported."""
    scene = scenes[name]
    assert scene.status == "rejected"
    assert not scene.sections
    assert scene.errors["image"].message.startswith(REJECTED[name][1])
    assert {error.kind for error in scene.errors.values()} == {"rejected"}
    assert name not in exported
    # And an image that has no annotations because fewer models than `min_sources` had a result.
    assert _dropped(folder / "export")["images: rejected"] == len(REJECTED) + 1


def test_status_and_report_say_what_failed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["status", str(folder / "run"), "--json"]) == 0
    stages = {stage["name"]: stage for stage in json.loads(capsys.readouterr().out)}
    assert stages["image"]["rejected"] == len(REJECTED)
    assert (stages["fusion"]["failed"], stages["masks"]["skipped"]) == (1, 1)
    out = tmp_path / "report.html"
    assert main(["report", str(folder / "run"), "--gallery", "1", "--out", str(out)]) == 0
    page = out.read_text()
    for _, reason in REJECTED.values():
        assert f"image: rejected: {reason}" in page
    assert "detections/c: model: RuntimeError: the model is broken" in page


# ------------------------------------------------------------ the rows of grand.md 5.5


def test_a_model_that_fails_on_one_image(scenes: dict[str, SceneSections]) -> None:
    """5.5: an error in its slot, retried alone once, then partial; other images as before."""
    scene = scenes["raises.png"]
    error = scene.errors["detections/c"]
    assert (error.kind, error.message) == ("model", "RuntimeError: the model is broken")
    assert scene.attempts["detections/c"] == 1
    assert scene.status == "partial"
    assert [*scene.errors] == ["detections/c"]
    invalid = scenes["invalid.png"].errors["detections/c"]
    assert invalid.kind == "output" and invalid.message.startswith("a box is x0 y0 x1 y1")


def test_a_batch_that_does_not_fit_the_memory(scenes: dict[str, SceneSections]) -> None:
    """5.5: whole-batch out of memory: the batch is halved, until it fits."""
    assert scenes["large.png"].status == "ok"
    assert scenes["large.png"].attempts["detections/a"] == 0
    statuses = [scene.status for scene in scenes.values()]
    assert statuses.count("partial") == NUM_PARTIAL
    assert statuses.count("rejected") == len(REJECTED)


def test_a_detector_without_a_result(scenes: dict[str, SceneSections]) -> None:
    """5.5: fuse with the rest, as the votes show; below `min_sources` partial."""
    (item,) = _record(scenes["one missing.png"])["objects"]
    assert [vote["source"] for vote in item["votes"]] == ["a", "b"]
    scene = scenes["two missing.png"]
    assert scene.status == "partial"
    assert scene.errors["fusion"].message == ("1 of 3 models have a result, and an object needs 2")
    assert scene.errors["annotations"].kind == "skipped"


def test_an_image_without_objects(scenes: dict[str, SceneSections]) -> None:
    """5.5: no graph, no level 3; level 4 has no option to write about the landmark alone."""
    scene = scenes["nothing.png"]
    assert scene.sections["scene_graph"]["text"] is None
    dense, context = scene.sections["dense_caption"], scene.sections["context"]
    assert (dense["caption"], dense["attempts"]) == (None, [])
    assert (context["text"], context["attempts"]) == (None, 0)
    assert scenes["plain.png"].sections["context"]["text"] == CONTEXT


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("refusal", "refusal"),
        ("no answer", "empty"),
        ("unfinished", "not finished"),
        ("too long", "too long"),
        ("markup", "markup"),
        ("repeats", "repeats the prompt"),
    ],
)
def test_answers_that_cannot_be_used(
    word: str, problem: str, scenes: dict[str, SceneSections], exported: dict[str, Any]
) -> None:
    """5.5: retried up to three times, then the template, which is not exported by default."""
    section = scenes[f"{word}.png"].sections["dense_caption"]
    assert [attempt["problem"] for attempt in section["attempts"]] == [problem] * 4
    assert (section["source"], section["verified"]) == ("template", None)
    assert section["caption"] == "The image shows a dog."
    assert not exported[f"{word}.png"].get("dense_caption")


def test_a_checklist_that_cannot_be_read(scenes: dict[str, SceneSections]) -> None:
    """5.5: checklist by the rules."""
    section = scenes["checklist.png"].sections["dense_caption"]
    assert section["attempts"][0]["checklist"] == ["A dog"]
    assert section["verified"] is True
    assert scenes["plain.png"].sections["dense_caption"]["attempts"][0]["checklist"] == ["a dog"]


def test_a_caption_that_is_never_verified(
    folder: Path, scenes: dict[str, SceneSections], exported: dict[str, Any], tmp_path: Path
) -> None:
    """5.5: kept with verified false, exported only with a flag."""
    section = scenes["inventions.png"].sections["dense_caption"]
    assert section["verified"] is False
    assert [x["missing"] for x in section["attempts"]] == [["a white elephant"]] * 3
    assert not exported["inventions.png"].get("dense_caption")
    options = ("--unverified-captions", "--template-captions")
    complete = _exported(folder, tmp_path / "all", *options)
    caption = complete["inventions.png"]["dense_caption"]["caption"]
    assert caption == ANSWERS["inventions"].text
    assert complete["refusal.png"]["dense_caption"]["caption"] == "The image shows a dog."
    dropped = _dropped(folder / "export")
    assert dropped["dense captions: not verified"] == 1
    assert dropped["dense captions: template"] == len(ANSWERS) - 1


def test_a_phrase_that_no_caption_has(folder: Path, tmp_path: Path) -> None:
    """5.5: dropped, counted: the released code looks for "a dog" in "A dog stands there."."""

    def lost(run: Path) -> str:
        out = tmp_path / "report.html"
        assert main(["report", str(run), "--gallery", "0", "--out", str(out)]) == 0
        before, _, after = out.read_text().partition("linked phrases that no short caption has")
        return before[-80:] + after[:80]

    assert ">0<" in lost(folder / "run")
    names = tmp_path / "names.txt"
    names.write_text("plain.png\nfolder/plain.png\n")
    options = ("--images", names, "--set", "grounding.words=false")
    assert main(_arguments(folder, "--out", tmp_path / "run", *options)) == 0
    scene = next(AnnotationRun.open(tmp_path / "run").scenes())
    assert _record(scene)["short_captions"][0]["details"] == []
    assert ">2<" in lost(tmp_path / "run")


def test_masks_that_do_not_fit(scenes: dict[str, SceneSections]) -> None:
    """5.5: empty, or IoU below 0.5: prompted by the box; then the object is kept without mask."""

    def source(name: str) -> str | None:
        (item,) = _record(scenes[name])["objects"]
        assert ("segmentation" in item) == ("segmentation_source" in item)
        return item.get("segmentation_source")

    assert source("plain.png") == "proposal"
    assert source("empty mask.png") == source("mask elsewhere.png") == "segmenter"
    assert source("empty mask twice.png") is None
    for name, message in {
        "mask of another size.png": "a mask of 48 x 64 is due, got 3 x 5",
        "no run lengths.png": "a mask is due: ",
    }.items():
        error = scenes[name].errors["proposals"]
        assert error.kind == "output" and error.message.startswith(message)
        assert source(name) == "segmenter"


def test_a_chunk_that_fails_several_times(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """5.5: a file in quarantine with the traceback; the run continues; the exit status says so."""
    original = ChunkWorker._outcomes

    def fail(self: ChunkWorker, stage: Stage, state: Any) -> Any:
        if stage.name == "depth" and state.chunk == 0:
            raise RuntimeError("a defect of the stage")
        return original(self, stage, state)

    names = tmp_path / "names.txt"
    names.write_text("plain.png\nfolder/plain.png\n")
    out = tmp_path / "run"
    arguments = _arguments(folder, "--out", out, "--images", names, "--chunk-size", 1)
    with monkeypatch.context() as patch:
        patch.setattr(ChunkWorker, "_outcomes", fail)
        assert main(arguments) == 1
    text = capsys.readouterr().out
    (path,) = out.glob("quarantine/depth/*/*")
    assert f"chunk 0 of stage depth failed several times: {path}" in text
    assert "RuntimeError: a defect of the stage" in path.read_text()
    scenes = list(AnnotationRun.open(out).scenes())
    assert ["annotations" in scene.sections for scene in scenes] == [False, True]
    assert main(arguments) == 0
    assert not path.exists()


# ------------------------------------------------------------ the run folder


def test_two_runs_in_one_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Issue 17, section 7."""
    with FileLock(folder / "run" / ".lock", "the run"):
        assert main(_arguments(folder, "--out", folder / "run")) == 2
    assert f"is being written by process {os.getpid()}" in capsys.readouterr().err


def test_a_run_folder_of_another_configuration(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Issue 17, section 7: its results stay, those of the new one stand beside them."""
    names = tmp_path / "names.txt"
    names.write_text("plain.png\n")
    arguments = _arguments(folder, "--out", tmp_path / "run", "--images", names)
    assert main(arguments) == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("stages/*/*/chunk*")}
    capsys.readouterr()
    assert main([*arguments, "--preset", "released"]) == 0
    assert "to compute: " in capsys.readouterr().out
    assert {path: path.read_bytes() for path in before} == before
    assert main(arguments) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*arguments[:-1], str(tmp_path / "other.txt")]) == 2
    assert "other.txt" in capsys.readouterr().err


def test_a_full_disk(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Issue 17, section 7: the program says so, nothing looks finished, the next run continues."""
    names = tmp_path / "names.txt"
    names.write_text("plain.png\n")
    arguments = _arguments(folder, "--out", tmp_path / "run", "--images", names)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(chunks.os, "fsync", full)
        assert main(arguments) == 2
    text = capsys.readouterr().err
    assert "No space left on device" in text and "run the same command again" in text
    assert not list((tmp_path / "run").rglob("*.tmp-*"))
    assert not list((tmp_path / "run").glob("stages/*/*/chunk*"))
    assert main(arguments) == 0


def test_a_replaced_photograph(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The program names it, and annotates it again."""
    names = tmp_path / "names.txt"
    names.write_text("plain.png\n")
    arguments = _arguments(folder, "--out", tmp_path / "run", "--images", names)
    path = folder / "photos" / "plain.png"
    content = path.read_bytes()
    assert main(arguments) == 0
    try:
        Image.new("RGB", (30, 20)).save(path)
        capsys.readouterr()
        assert main(arguments) == 0
    finally:
        path.write_bytes(content)
    text = capsys.readouterr().out
    assert "photographs: 1 changed since they were annotated (plain.png); " in text
    (scene,) = AnnotationRun.open(tmp_path / "run").scenes()
    assert scene.sections["image"]["width"] == 30
