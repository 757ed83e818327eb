"""Annotation files of benchmarks: the files, their images, the names of datasets.

Images are read when an item is predicted, so a missing image fails alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from glamm_jax.data.preprocess import MAX_IMAGE_BYTES
from glamm_jax.data.record import Record, RecordError
from glamm_jax.data.sources.coco_file import CocoFile
from glamm_jax.data.sources.dataset_files import OUTSIDE_HINT, find_image
from glamm_jax.data.sources.defects import SourceError, quoted
from glamm_jax.data.sources.json_files import Fields, as_id
from glamm_jax.files import FileNameError, read_regular_file
from glamm_jax.json_files import JSONError, JSONObject, parse_json

# Where images may be, relative to the folder of the annotations and to the folders above it.
IMAGE_FOLDERS = (
    *("images", "GranDf/GranDf_HA_images/val_test", "GranDf_HA_images/val_test"),
    *("coco_2014/train2014", "visual_genome/images", "flickr30k-images", "flikcr_30k/train"),
    *("images/train2014", "coco_2014/val2014", "val2014", "coco_2017/val2017", "val2017", ""),
)
NUM_PARENTS = 3  # folders above the annotations in which images are searched
NUM_PROBED = 20  # images that the choice of a folder is based on
# Part of a file's or folder's name -> the name of the dataset in the paper's tables.
DATASET_NAMES = {
    "visual_genome": "visual_genome",
    "flickr": "flickr30k",
    "refcocog": "refcocog",
    "refcoco+": "refcoco+",
    "refcoco": "refcoco",
    "nocaps": "nocaps",
}


class ImageFiles:
    """Images of a folder by index, as records without annotations."""

    def __init__(self, folder: Path, names: Sequence[str], ids: Sequence[str]):
        self.folder, self._names, self._ids = folder, names, ids

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Record:
        """Read an image.

        Raises:
            RecordError: the file does not exist or cannot be read.
        """
        name = self._names[index]
        try:
            path = find_image(self.folder, [""], name)
            image = None if path is None else read_regular_file(path, MAX_IMAGE_BYTES)
        except FileNameError as error:
            raise RecordError(f"{error}; {OUTSIDE_HINT}") from error
        except OSError as error:
            raise RecordError(f"{name}: cannot be read: {error.strerror or error}") from error
        if image is None:
            raise RecordError(f"{self.folder / name}: no such image")
        return Record(image, self._ids[index], str(self.folder), "", 0, 0)

    def num_bytes(self, index: int) -> int:
        """Return the size of an image's file, 0 where it does not exist or may not be read."""
        try:
            path = find_image(self.folder, [""], self._names[index])
        except FileNameError:
            return 0
        return path.stat().st_size if path is not None else 0


def find_images(coco: CocoFile, base: Path, folder: Path | None) -> ImageFiles:
    """Locate the images of a file in COCO's layout.

    Args:
        coco: the file.
        base: its folder.
        folder: of the images; None: the one of `IMAGE_FOLDERS` with most of the first images.

    Raises:
        SourceError: an image has no id, an annotation belongs to no image, or no folder has any
            of the first images.
    """
    for i, entry in enumerate(coco.images):
        if not isinstance(entry, dict) or as_id(entry.get("id")) is None:
            raise SourceError(f"{base}: image {i} of the annotations has no id: {quoted(entry)}")
    if coco.unassigned:
        kind, where = next(iter(coco.unassigned.values()))
        raise SourceError(
            f"{base}: {len(coco.unassigned)} broken annotations; the first: {kind}: {where}"
        )
    # Without a file name the id is the name, as in the file names of the original's predictions.
    names = [str(e.get("file_name") or f"{as_id(e.get('id'))}.jpg") for e in coco.images]
    ids = [as_id(entry["id"]) or "" for entry in coco.images]
    return ImageFiles(folder or find_image_folder(names, base), names, ids)


def find_image_folder(names: Sequence[str], base: Path) -> Path:
    """Return the folder of `IMAGE_FOLDERS`, at `base` or above, with most of the first images.

    Args:
        names: of the images.
        base: folder of the annotations.

    Raises:
        SourceError: no folder has any of the first images.
    """
    # Several images are probed, because a single one may be the one that is missing.
    candidates = [
        parent / folder
        for parent in (base, *base.resolve().parents[:NUM_PARENTS])
        for folder in IMAGE_FOLDERS
    ]
    probed = names[:NUM_PROBED]
    counts = [
        sum(os.path.isfile(os.path.join(folder, name)) for name in probed) for folder in candidates
    ]
    if probed and not max(counts):
        raise SourceError(
            f"{base}: images such as {probed[0]!r} are in none of "
            f"{', '.join(IMAGE_FOLDERS[:-1])} there or above; name their folder with --images"
        )
    return candidates[counts.index(max(counts))]


def read_json_lines(path: Path, layout: str) -> Iterator[Fields]:
    """Yield the objects of a file that has one on each line; empty lines are skipped.

    Args:
        path: of the file.
        layout: what the benchmark consists of, for the message about a missing file.

    Raises:
        SourceError: the file is missing, or a line is no object.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file; {layout}")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if line.strip():
            where = f"{path}: line {number}"
            try:
                yield JSONObject(parse_json(line, where), where).fields
            except JSONError as error:
                raise SourceError(str(error)) from error


def find_annotation_file(path: Path, split: str, *endings: str) -> Path:
    """Return the annotation file of a split.

    Args:
        path: the file itself, or a folder.
        split: selects among several files of a folder, by a word of the file's name.
        endings: of the names of possible files.

    Raises:
        SourceError: no file of the folder fits, or several do.
    """
    if path.is_file():
        return path
    candidates = list(
        dict.fromkeys(
            file
            for ending in endings
            for file in sorted(path.glob("*.json"))
            if file.match(f"*{ending}")
        )
    )
    matches = candidates
    if len(candidates) > 1:
        matches = [x for x in candidates if split in x.stem.replace("-", "_").split("_")]
    if len(matches) != 1:
        names = ", ".join(file.name for file in candidates) or "none"
        raise SourceError(
            f"{path}: expected one file *{endings[0]} of split {split!r}, found {names}; "
            "name the file itself"
        )
    return matches[0]


def dataset_name(file: Path) -> str:
    """Return the dataset's name in the paper's tables, from the names of a file and its folder."""
    place = f"{file.parent.name}/{file.name}".lower()
    return next((name for part, name in DATASET_NAMES.items() if part in place), file.stem)
