"""Annotations in one file that says more than one thing about a picture, gathered by picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from glamm_jax.data.record import Defect, Found
from glamm_jax.data.sources.coco_file import CocoFile, Strays, read_coco
from glamm_jax.data.sources.record_builder import Draft
from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    NOTHING_SAID,
    Fields,
    Notes,
    SourceError,
    as_id,
    existing,
    find_picture,
    open_picture,
    read_json,
    require_split,
    shown,
)

# What one entry of a file is: its number there, and its fields.
Entry = tuple[int, Fields]


def files_of(splits: Sequence[str], *places: str) -> dict[str, list[str]]:
    """Places where the file of each split may lie; {} in them is the split."""
    return {split: [place.format(split) for place in places] for split in splits}


class GatheredSource(ABC):
    """Entries of one file, gathered by picture. What has no picture has a key of its own.

    Raises: SourceError when the annotations are absent or no JSON, or there is no such split.
    """

    name = ""
    files: Mapping[str, Sequence[str]]  # split -> places of its file, from the data folder
    folders: Sequence[str]  # where pictures may lie; {} in them is the split

    def __init__(self, root: Path, split: str):
        require_split(self.name, split, self.files)
        self.split, self._root = split, root
        self._folders = [folder.format(split) for folder in self.folders]
        self._file = existing(root, self.files[split])
        self._entries: dict[str, list[Entry]] = {}
        self._broken: Strays = {}
        for i, entry in enumerate(self._load()):
            self._sort_in(i, entry)

    @property
    def keys(self) -> Sequence[str]:
        """File names of pictures, in the order of the file, then entries that name none."""
        return [*self._entries, *self._broken]

    def read(self, key: str) -> Found:
        """Everything that is said about a picture."""
        notes = Notes(f"{self._file.name} {shown(key)}")
        if key in self._broken:
            notes.add(*self._broken[key])
            return notes.nothing()
        picture = open_picture(self.image_path(key), self._folders, notes)
        if picture is None:
            return notes.nothing()
        draft = Draft(picture, notes)
        for i, entry in self._entries[key]:
            draft.check_size(entry.get("height"), entry.get("width"))
            self._fill(draft, entry, f"entry {i}")
        found = draft.found(PurePosixPath(key).stem, self.name, self.split)
        if found.record is None and not found.defects:
            return Found(None, (Defect(NOTHING_SAID, notes.where),))
        return found

    def image_path(self, key: str) -> Path | None:
        """Where the picture of a key lies."""
        return find_picture(self._root, self._folders, key)

    def _sort_in(self, i: int, entry: Any) -> None:
        fields = self._picture_fields(entry)
        name = fields.get("file_name") if isinstance(fields, dict) else None
        if isinstance(name, str) and name:
            self._entries.setdefault(name, []).append((i, fields))
        else:
            self._broken[f"entry {i}"] = (BROKEN_ENTRY, f"names no picture: {shown(entry)}")

    def _coco(self, file: Path) -> CocoFile:
        """A file in COCO's layout; what belongs to no picture of it is broken."""
        layout = read_coco(file)
        self._broken |= layout.strays
        return layout

    def _load(self) -> Iterable[Any]:
        entries = read_json(self._file)
        if not isinstance(entries, list):
            raise SourceError(f"{self._file}: a list of pictures is expected, not {shown(entries)}")
        return entries

    def _picture_fields(self, entry: Any) -> Any:
        """An entry with its picture's name as `file_name`."""
        return entry

    @abstractmethod
    def _fill(self, draft: Draft, entry: Fields, where: str) -> None:
        """Add what an entry says about its picture."""


class CocoSource(GatheredSource):
    """The same of a file in COCO's layout: what is said stands in annotations of the entries."""

    def _load(self) -> Iterable[Any]:
        self._layout = self._coco(self._file)
        return self._layout.images

    def _said(self, entry: Fields) -> Iterable[tuple[Fields, str]]:
        """The annotations of an entry, and where they stand."""
        for annotation in self._layout.annotations.get(as_id(entry.get("id")) or "", []):
            yield annotation, f"annotation {shown(annotation.get('id'))}"
