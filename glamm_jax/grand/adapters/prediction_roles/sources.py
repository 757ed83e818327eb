"""What files say about an image: a folder with a file for each, a file with a line for each, COCO.

    source = open_source(Path("predictions/co_detr"), "co_detr", None)
    source.content("train/a.jpg")          # a list of detections

- folder: `IMAGE.json`, where IMAGE is the image's path without its ending, such as
  `train/a.json` for train/a.jpg. The layout of GranD has {"a.jpg": {"co_detr": CONTENT}}; without
  such keys the file is the content.
- `.jsonl`: a line {"image": "train/a.jpg", ...} for each image.
- `.json`: results of COCO; `images` names the file with `images` and `categories`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

from glamm_jax.errors import ConfigError, GLaMMError
from glamm_jax.files import confined_file
from glamm_jax.json_files import JSONError, JSONObject, parse_json, read_json

MAX_FILES = 100_000  # of a folder whose files are listed for the fingerprint
MAX_LINE = 1 << 26  # bytes of a line


class MissingPredictionError(GLaMMError):
    """The files have nothing about an image."""


@runtime_checkable  # by the tests
class PredictionSource(Protocol):
    """Files that are open."""

    def content(self, image_id: str) -> Any:
        """Return what the files say about an image.

        Raises:
            GLaMMError: nothing, or the file cannot be read.
        """
        ...


def fingerprint_of(path: Path, version: str) -> str:
    """Return a text that changes with the files.

    Args:
        path: of a file, whose content counts, or of a folder, of whose files names, sizes and
            times count.
        version: text of the user, instead of the files.

    Raises:
        ConfigError: there is no such file, or the folder has too many files to be listed.
    """
    if not path.exists():
        raise ConfigError(f"{path}: no such file or folder")
    if version:
        return f"version {version}"
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    count = 0
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            count += 1
            if count > MAX_FILES:
                raise ConfigError(
                    f'{path}: more than {MAX_FILES} files; give version = "TEXT", and change it '
                    "when they change"
                )
            where = os.path.join(folder, name)
            status = os.stat(where)
            line = (os.path.relpath(where, path), status.st_size, status.st_mtime_ns)
            digest.update(repr(line).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def open_source(path: Path, model: str, images: Path | None) -> PredictionSource:
    """Open the files.

    Args:
        path: of a folder, or of a file that ends with .jsonl or .json.
        model: key of the predictions in files of GranD.
        images: of COCO results: the file with `images` and `categories`.

    Raises:
        GLaMMError: a file cannot be read.
    """
    if path.is_dir():
        return _Folder(path, model)
    if path.suffix == ".jsonl":
        return _Lines(path)
    if path.suffix == ".json" and images is not None:
        return _COCOResults(path, images)
    raise ConfigError(
        f"{path}: is neither a folder nor a .jsonl file, nor COCO results (.json, with images = "
        "FILE)"
    )


def file_beside(folder: Path, image_id: str, endings: tuple[str, ...]) -> Path:
    """Return the file of a folder that belongs to an image.

    Args:
        folder: of the files.
        image_id: path of the image.
        endings: of its name, instead of that of the image; the first one that exists counts.

    Raises:
        MissingPredictionError: there is none.
        FileNameError: the path leads out of the folder.
    """
    stem = str(PurePosixPath(image_id).with_suffix(""))
    for ending in endings:
        path = confined_file(folder, stem + ending)
        if path is not None:
            return path
    raise MissingPredictionError(f"{folder}: has no file {' or '.join(stem + x for x in endings)}")


class _Folder:
    """A file for each image."""

    def __init__(self, folder: Path, model: str):
        self._folder, self._model = folder, model

    def content(self, image_id: str) -> Any:
        """Return the content of the image's file, or what it has about model and image."""
        path = file_beside(self._folder, image_id, (".json",))
        value = read_json(path)
        name = PurePosixPath(image_id).name
        if not isinstance(value, dict):
            return value
        if "annotations" in value:  # of SA-1B
            described = value.get("image")
            file_name = described.get("file_name") if isinstance(described, dict) else None
            if file_name not in (None, name):
                raise JSONError(f"{path}: is about {file_name!r}")
            return value
        if len(value) == 1 and self._model in value:
            return value[self._model]
        if name not in value:
            raise MissingPredictionError(f"{path}: has no key {name!r}")
        models = JSONObject(value[name], f"{path}: {name}")
        if self._model not in models:
            raise MissingPredictionError(
                f"{path}: {name}: has no key {self._model!r}; there are: {', '.join(models)}"
            )
        return models.value(self._model)


class _Lines:
    """A line for each image; their places are in memory, not the lines."""

    def __init__(self, path: Path):
        self._path = path
        self._places: dict[str, tuple[int, int]] = {}
        offset = 0
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE + 1):
                number += 1
                where = f"{path}: line {number}"
                if len(line) > MAX_LINE:
                    raise JSONError(f"{where}: more than {MAX_LINE} bytes")
                if line.strip():
                    image = JSONObject(parse_json(line, where), where).text("image")
                    if image in self._places:
                        raise JSONError(f"{where}: there is another line about {image!r}")
                    self._places[image] = (offset, number)
                offset += len(line)

    def content(self, image_id: str) -> Any:
        """Return the line about an image."""
        if image_id not in self._places:
            raise MissingPredictionError(f"{self._path}: has no line about {image_id!r}")
        offset, number = self._places[image_id]
        with self._path.open("rb") as file:
            file.seek(offset)
            return parse_json(file.readline(MAX_LINE + 1), f"{self._path}: line {number}")


class _COCOResults:
    """Detections in the form of COCO's results; boxes become x0 y0 x1 y1."""

    def __init__(self, path: Path, images: Path):
        self._path = path
        described = JSONObject(read_json(images), str(images))
        names = {x.integer("id"): x.text("name") for x in described.objects("categories")}
        self._ids: dict[str, int] = {}
        for image in described.objects("images"):
            name = image.text("file_name")
            if self._ids.setdefault(name, image.integer("id")) != image.integer("id"):
                raise JSONError(f"{images}: two images have the file name {name!r}")
        image_ids = {*self._ids.values()}
        results = read_json(path)
        if not isinstance(results, list):
            raise JSONError(f"{path}: is not a list of results")
        self._detections: dict[int, list[dict[str, Any]]] = {}
        for i, value in enumerate(results):
            entry = JSONObject(value, f"{path}: [{i}]")
            image, category = entry.integer("image_id"), entry.integer("category_id")
            if image not in image_ids:
                raise JSONError(f"{entry.where}: image_id {image} is not in {images}")
            if category not in names:
                raise JSONError(f"{entry.where}: category_id {category} is not in {images}")
            box = entry.array("bbox")
            if len(box) != 4 or not all(type(x) in (int, float) for x in box):
                raise JSONError(f"{entry.where}: bbox is not [x, y, width, height]")
            x, y, width, height = box
            detection = {
                "bbox": [x, y, x + width, y + height],
                "score": entry.number("score"),
                "label": names[category],
            }
            if "segmentation" in entry:
                detection["segmentation"] = entry.value("segmentation")
            self._detections.setdefault(image, []).append(detection)

    def content(self, image_id: str) -> Any:
        """Return the detections of an image."""
        if image_id not in self._ids:
            raise MissingPredictionError(f"{self._path}: no image has the file name {image_id!r}")
        return self._detections.get(self._ids[image_id], [])
