"""The list of the images of a run, and the stage that opens them."""

from __future__ import annotations

import hashlib
import os
import random
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from glamm_jax.grand import run_folder
from glamm_jax.grand.chunks import RunFolderError, path_name
from glamm_jax.grand.drivers.local import run_local
from glamm_jax.grand.images import (
    ImageReader,
    difference_hash,
    hash_distance,
    image_stage,
    listed_images,
    scan_images,
)
from glamm_jax.grand.run_folder import AnnotationRun, ImageEntry, SceneSections
from glamm_jax.grand.stages import StageGraph

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
NAMES = (
    "a.jpg",
    "a.png",
    "b/a.jpg",
    "b/c d/ünï cödé 狗.png",
    "no extension",
    "percent%20.png",
    "UPPER.JPG",
    "quote'\".png",
    "new\nline.png",
)


def _open(folder: Path) -> dict[str, SceneSections]:
    run = AnnotationRun.create(folder.parent / "run", scan_images(folder), folder)
    graph = StageGraph([image_stage()])
    run_local(run, graph, processes=1)
    return {scene.image_id: scene for scene in run.scenes(graph)}


def test_any_file_name_is_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("wb") as file:
            Image.fromarray(PIXELS).save(file, "PNG")
    scenes = _open(folder)
    assert list(scenes) == sorted(NAMES)
    digest = hashlib.sha256((folder / "a.jpg").read_bytes()).hexdigest()
    assert scenes["a.jpg"].sections["image"] == {
        "file": "a.jpg",
        "sha256": digest,
        "bytes": (folder / "a.jpg").stat().st_size,
        "height": 40,
        "width": 60,
        "dhash": difference_hash(PIXELS),
    }
    assert all(scene.status == "ok" for scene in scenes.values())


def test_links_and_files_that_are_none_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png", ".hidden.png"):
        (folder / name).write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "c.png").write_bytes(b"")
    (folder / "link.png").symlink_to("a.png")
    (folder / "loop").symlink_to("..")
    (folder / "dangling").symlink_to("nothing")
    os.mkfifo(folder / "pipe.png")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)  # the path of a socket has few characters
        server.bind("socket.png")
        os.chdir(here)
    Path(os.fsdecode(os.fsencode(folder) + b"/latin\xe9.png")).write_bytes(b"")
    (folder / "run" / "stages").mkdir(parents=True)
    (folder / "run" / "stages" / "chunk.jsonl").write_bytes(b"")
    refused: dict[str, str] = {}
    images = scan_images(folder, refused.__setitem__, exclude=[folder / "run"])
    assert {image.image_id for image in images} == {"a.png", "sub/b.png"}
    assert refused == {
        ".hidden.png": "hidden",
        ".git": "hidden",
        "link.png": "a link",
        "loop": "a link",
        "dangling": "a link",
        "pipe.png": "a pipe",
        "socket.png": "a socket",
        "latin\udce9.png": "the name is not UTF-8",
    }


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="No such file or directory"):
        list(scan_images(tmp_path / "nothing"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RunFolderError, match="Not a directory"):
        list(scan_images(tmp_path / "file"))


def test_images_of_a_list(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(b"")
    (tmp_path / "outside.png").write_bytes(b"")
    assert list(listed_images(folder, ["b.png"])) == [ImageEntry("b.png", "b.png")]
    with pytest.raises(RunFolderError, match=r"has no file 'c\.png'"):
        list(listed_images(folder, ["a.png", "c.png"]))
    with pytest.raises(RunFolderError, match="leads out of the folder"):
        list(listed_images(folder, ["../outside.png"]))
    twice = listed_images(folder, ["a.png", "b.png", "a.png"])
    with pytest.raises(RunFolderError, match=r"two images have the id 'a\.png'"):
        AnnotationRun.create(tmp_path / "run", twice, folder)


def test_long_lists_are_sorted_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_folder, "_SORTED_IN_MEMORY", 10)
    names = [f"{index:03}ü.png" for index in range(95)]
    images = [ImageEntry(name, name) for name in names]
    random.Random(0).shuffle(images)
    run = AnnotationRun.create(tmp_path / "run", images, tmp_path, 20)
    read = [image.image_id for chunk in range(run.num_chunks) for image in run.images(chunk)]
    assert read == names
    assert run.num_chunks == 5


def _rotated(path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(PIXELS).save(path, exif=exif)


def _cut(path: Path) -> None:
    Image.fromarray(np.tile(PIXELS, (8, 8, 1))).save(path)
    path.write_bytes(path.read_bytes()[:9000])


def _save(mode: str) -> Callable[[Path], None]:
    return lambda path: Image.fromarray(PIXELS).convert(mode).save(path)


SIZES: dict[str, tuple[Callable[[Path], None], tuple[int, int]]] = {
    "rotated.jpg": (_rotated, (60, 40)),
    "rotated.png": (_rotated, (60, 40)),
    "cmyk.jpg": (_save("CMYK"), (40, 60)),
    "cmyk.tif": (_save("CMYK"), (40, 60)),
    "grey.png": (_save("L"), (40, 60)),
    "palette.gif": (_save("P"), (40, 60)),
    "alpha.webp": (_save("RGBA"), (40, 60)),
    "bits16.png": (
        lambda path: Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60)).save(path),
        (40, 60),
    ),
    "wide.png": (lambda path: Image.new("RGB", (20_000, 16)).save(path), (16, 20_000)),
}


def _text(text: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(text)

    return write


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "empty.jpg": (_text(b""), "not a readable image: the format is unknown or the file is damaged"),
    "page.jpg": (_text(b"<html>"), "not a readable image: the format is unknown"),
    "vector.png": (_text(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "not a readable image: the format"),
    "cut.jpg": (_cut, "not a readable image: the file ends too early"),
    "cut.png": (_cut, "not a readable image: the file ends too early"),
    "one.png": (
        lambda path: Image.new("RGB", (1, 1)).save(path),
        "1 x 1 pixels; a side has at least 16",
    ),
    "large.png": (
        lambda path: Image.new("1", (20_000, 20_000)).save(path),
        "too large (400000000 pixels; the limit is 89 million).",
    ),
    "float.tif": (
        lambda path: Image.fromarray(np.zeros((20, 20), np.float32)).save(path),
        "floating-point pixels have no fixed range",
    ),
}


def test_formats(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, (save, _) in {**SIZES, **UNUSABLE}.items():
        save(folder / name)
    scenes = _open(folder)
    sizes = {
        name: (scene.sections["image"]["height"], scene.sections["image"]["width"])
        for name, scene in scenes.items()
        if scene.status == "ok"
    }
    assert sizes == {name: size for name, (_, size) in SIZES.items()}
    for name, (_, reason) in UNUSABLE.items():
        assert scenes[name].status == "rejected"
        error = scenes[name].errors["image"]
        assert error.message.startswith(reason), (name, error.message)


def test_what_is_no_regular_file_is_rejected(tmp_path: Path) -> None:
    """A file that is gone is not: see test_photograph_changes.py."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images = [ImageEntry(name, name) for name in ("gone.png", "pipe.png", "x.png")]
    os.mkfifo(folder / "pipe.png")
    Image.fromarray(PIXELS).save(folder / "x.png")
    run = AnnotationRun.create(tmp_path / "run", images, folder)
    run_local(run, StageGraph([image_stage()]), processes=1)
    scenes = list(run.scenes())
    assert [scene.status for scene in scenes] == ["partial", "rejected", "ok"]
    assert scenes[0].errors["image"].message == "no such file"
    assert scenes[1].errors["image"].message.endswith("pipe.png: not a regular file")


def test_the_hash_is_near_for_copies_and_far_for_other_images() -> None:
    rows, columns = np.mgrid[0:300, 0:400]
    photograph = np.stack([np.sin(rows / 40 + k) * np.cos(columns / 30) for k in range(3)], -1)
    pixels = ((photograph + 1) * 127).astype(np.uint8)
    half = np.asarray(Image.fromarray(pixels).resize((200, 150)))
    noisy = np.clip(pixels + np.random.default_rng(0).normal(0, 4, pixels.shape), 0, 255)
    first = difference_hash(pixels)
    assert len(first) == 16
    assert hash_distance(first, difference_hash(half)) <= 4
    assert hash_distance(first, difference_hash(noisy.astype(np.uint8))) <= 4
    assert hash_distance(first, difference_hash(255 - pixels)) >= 32
    assert hash_distance("0000000000000000", "ffffffffffffffff") == 64


def test_the_cache_of_pixels_is_bounded(tmp_path: Path) -> None:
    for name in "abc":
        Image.fromarray(PIXELS).save(tmp_path / f"{name}.png")
    reader = ImageReader(tmp_path, cached_bytes=2 * PIXELS.nbytes)
    first = {name: reader.pixels(f"{name}.png") for name in "abc"}
    assert reader.pixels("c.png") is first["c"]
    assert reader.pixels("b.png") is first["b"]
    assert reader.pixels("a.png") is not first["a"]
    assert (first["a"] == PIXELS).all()


def test_names_of_folders_are_safe_and_different() -> None:
    texts = [
        *("tags", "detections/eva-02-01", "..", ".", "", " ", "a b", "a%20b", "é", "nul", "x~"),
        *("a" * 500, "a" * 501, "\udce9", "a/b", "a\\b", "a\nb", "A", "a"),
    ]
    names = [path_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert name
        assert not set(name) & set("/\\\n ")
        assert not name.startswith(".")
        assert len(name) <= 120
    assert names[0] == "tags"
    assert names[1] == "detections%2Feva-02-01"
