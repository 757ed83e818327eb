"""The two LMDBs of GranD: referring expressions and captions, JSON under a picture's name."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from glamm_jax.data.record import ReadResult
from glamm_jax.data.sources.grand_texts import (
    add_captions,
    clean_expression,
    data_folder,
    describe,
    image_path,
)
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    MISSING_ENTRY,
    MISSING_IMAGE,
    DefectLog,
    SourceError,
    as_fields,
    as_list,
    parse_json,
    quoted,
    read_image_file,
)

EXPRESSIONS, CAPTIONS = "Grand_Referring_Expression_lmdb", "Grand_Caption_Grounding_lmdb"
LISTS = {"train": "Train", "val": "Val"}

_opening = threading.Lock()


class GrandDatabase:
    """Both databases, or the one that is there, gathered by picture.

    Raises: SourceError when neither is there or one is damaged, or there is no such split.
    """

    name = "grand_lmdb"

    def __init__(self, root: Path, split: str):
        if split not in LISTS:
            raise SourceError(f"{self.name}: no split {split!r}; there are {', '.join(LISTS)}")
        self.split, self._folder = split, data_folder(root)
        self._names = {
            database: dict.fromkeys(_names(self._folder / database, split))
            for database in (EXPRESSIONS, CAPTIONS)
            if (self._folder / database).is_dir()
        }
        if not self._names:
            raise SourceError(
                f"{self._folder}: no {EXPRESSIONS} and no {CAPTIONS} in it; "
                "the released JSON files are read as grand"
            )
        self._keys = list(dict.fromkeys(key for names in self._names.values() for key in names))

    @property
    def keys(self) -> Sequence[str]:
        """Names of pictures, those with expressions first."""
        return self._keys

    def read(self, key: str) -> ReadResult:
        """What both databases say about a picture."""
        notes = DefectLog(f"{self.name} {quoted(key)}")
        path = self.image_path(key)
        if path is None:
            notes.add(MISSING_IMAGE, f"not in {self._folder / 'images'}")
        picture = read_image_file(path, notes) if path else None
        if picture is None:
            return notes.nothing()
        draft = RecordBuilder(picture, notes)
        described = []
        for i, item in enumerate(self._items(EXPRESSIONS, key, notes)):
            where = f"expression {i}"
            fields = as_fields(item, notes, where)
            text = clean_expression(fields.get("attribute"), notes, where) if fields else ""
            if not text:
                continue
            box = draft.box(fields.get("bbox"), where)
            region = draft.region(box, draft.mask(fields.get("segmentation"), where))
            described += [] if region is None else [(text, region)]
        describe(draft, described)
        add_captions(draft, self._items(CAPTIONS, key, notes), "caption")
        return draft.result(Path(key).stem, self.name, self.split)

    def image_path(self, key: str) -> Path | None:
        """Where the picture of a key lies."""
        return image_path(self._folder, key)

    def _items(self, database: str, key: str, notes: DefectLog) -> list[Any]:
        """The list under a picture's name in one database."""
        if key not in self._names.get(database, ()):
            return []
        with _environment(self._folder / database).begin() as transaction:
            value = transaction.get(key.encode())
        if value is None:
            notes.add(MISSING_ENTRY, f"listed, but not in {database}")
            return []
        try:
            fields = as_fields(parse_json(value), notes, database)
        except ValueError as error:
            notes.add(BROKEN_ENTRY, f"{database}: {error}")
            return []
        return as_list(fields.get(key), notes, database)


def _names(database: Path, split: str) -> list[str]:
    """Names of pictures from the list of a split; without one, everything that is there."""
    listed = database / f"{database.name}_{LISTS[split]}.txt"
    if listed.is_file():
        lines = listed.read_text(encoding="utf-8", errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()]
    if split != "train":
        raise SourceError(f"{listed}: no such file; it lists the pictures of split {split!r}")
    with _environment(database).begin() as transaction:
        keys = transaction.cursor().iternext(keys=True, values=False)
        return [bytes(key).decode("utf-8", "replace") for key in keys]


def _environment(database: Path) -> Any:
    """An open database. LMDB allows one of a kind in a process, so it stays open."""
    with _opening:
        return _open(database.resolve())


@cache
def _open(database: Path) -> Any:
    try:
        import lmdb
    except ImportError as error:
        message = f"{database}: reading LMDB needs lmdb: pip install 'glamm-jax[data]'"
        raise SourceError(message) from error
    try:
        return lmdb.open(str(database), readonly=True, lock=False, readahead=False, max_dbs=0)
    except lmdb.Error as error:
        raise SourceError(f"{database}: no readable LMDB: {error}") from error
