"""The two LMDBs of GranD: referring expressions and captions, as JSON by image name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from glamm_jax.data.record import ReadResult
from glamm_jax.data.sources.dataset_files import open_image_file, require_split
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    MISSING_ENTRY,
    DefectLog,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.grand_texts import (
    add_expressions,
    add_short_captions,
    clean_expression,
    data_folder,
    image_path,
)
from glamm_jax.data.sources.json_files import as_fields, as_list
from glamm_jax.data.sources.lmdb_file import LMDBError, LMDBFile
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.json_files import parse_json

EXPRESSIONS, CAPTIONS = "Grand_Referring_Expression_lmdb", "Grand_Caption_Grounding_lmdb"
LISTS = {"train": "Train", "val": "Val"}  # split -> end of the name of its list of images

_opening = threading.Lock()


class GrandLMDB:
    """Both databases, or the one that exists, grouped by image; keys are names of images."""

    name = "grand_lmdb"

    def __init__(self, root: Path, split: str):
        """List the images.

        Raises:
            SourceError: there is no database, or a damaged one, or there is no such split.
        """
        require_split(self.name, split, LISTS)
        self.split, self._folder = split, data_folder(root)
        self._names = {
            database: dict.fromkeys(_image_names(self._folder / database, split))
            for database in (EXPRESSIONS, CAPTIONS)
            if (self._folder / database).is_dir()
        }
        if not self._names:
            raise SourceError(
                f"{self._folder}: contains no {EXPRESSIONS} and no {CAPTIONS}; "
                "use the dataset grand for the released JSON files"
            )
        self._keys = list(dict.fromkeys(key for names in self._names.values() for key in names))

    @property
    def keys(self) -> Sequence[str]:
        """Names of images, those with expressions first."""
        return self._keys

    def read(self, key: str) -> ReadResult:
        """Read the annotations of an image from both databases."""
        log = DefectLog(f"{self.name} {quoted(key)}")
        places = f"not in {self._folder / 'images'}"
        image = open_image_file(self.image_path, key, places, log)
        if image is None:
            return log.no_record()
        builder = RecordBuilder(image, log)
        expressions = []
        for i, item in enumerate(self._items(EXPRESSIONS, key, log)):
            where = f"expression {i}"
            fields = as_fields(item, log, where)
            text = clean_expression(fields.get("attribute"), log, where) if fields else ""
            if not text:
                continue
            box = builder.parse_box(fields.get("bbox"), where)
            region = builder.add_region(box, builder.parse_mask(fields.get("segmentation"), where))
            expressions += [] if region is None else [(text, region)]
        add_expressions(builder, expressions)
        add_short_captions(builder, self._items(CAPTIONS, key, log), "caption")
        return builder.build(Path(key).stem, self.name, self.split)

    def image_path(self, key: str) -> Path | None:
        """Return the path of the image of a key; None if there is no such file."""
        return image_path(self._folder, key)

    def _items(self, database: str, key: str, log: DefectLog) -> list[Any]:
        """The list under the name of an image in one database."""
        if key not in self._names.get(database, ()):
            return []
        try:
            value = _open_database(self._folder / database).get(key.encode("utf-8", "replace"))
        except LMDBError as error:
            log.add(BROKEN_ENTRY, str(error))
            return []
        if value is None:
            log.add(MISSING_ENTRY, f"listed, but not in {database}")
            return []
        try:
            fields = as_fields(parse_json(value, "value"), log, database)
        except ValueError as error:
            log.add(BROKEN_ENTRY, f"{database}: {error}")
            return []
        return as_list(fields.get(key), log, database)


def _image_names(database: Path, split: str) -> list[str]:
    """Names of images in the list of a split; without a list, all keys of the database."""
    names_file = database / f"{database.name}_{LISTS[split]}.txt"
    if names_file.is_file():
        lines = names_file.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]
    if split != "train":
        raise SourceError(f"{names_file}: no such file; it lists the images of split {split!r}")
    try:
        return [key.decode("utf-8", "replace") for key in _open_database(database)]
    except LMDBError as error:
        raise SourceError(str(error)) from error


def _open_database(database: Path) -> LMDBFile:
    """An open database, one in each process.

    Raises:
        SourceError: it cannot be opened.
    """
    with _opening:
        return _open(database.resolve())


@cache
def _open(database: Path) -> LMDBFile:
    try:
        return LMDBFile(database)
    except LMDBError as error:
        raise SourceError(str(error)) from error
