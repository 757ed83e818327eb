"""Annotations in one file that says more than one thing about a picture, gathered by picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from glamm_jax.data.record import Defect, ReadResult
from glamm_jax.data.sources.coco_file import CocoFile, Strays, read_coco
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    NO_ANNOTATION,
    DefectLog,
    Fields,
    SourceError,
    as_id,
    find_image,
    first_existing,
    open_image_file,
    quoted,
    read_json,
    require_split,
)

# What one entry of a file is: its number there, and its fields.
Entry = tuple[int, Fields]


def files_of(splits: Sequence[str], *places: str) -> dict[str, list[str]]:
    """Places where the file of each split may lie; {} in them is the split."""
    return {split: [place.format(split) for place in places] for split in splits}


class GroupedSource(ABC):
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
        self._file = first_existing(root, self.files[split])
        self._entries: dict[str, list[Entry]] = {}
        self._broken: Strays = {}
        for i, entry in enumerate(self._load()):
            self._sort_in(i, entry)

    @property
    def keys(self) -> Sequence[str]:
        """File names of pictures, in the order of the file, then entries that name none."""
        return [*self._entries, *self._broken]

    def read(self, key: str) -> ReadResult:
        """Everything that is said about a picture."""
        notes = DefectLog(f"{self._file.name} {quoted(key)}")
        if key in self._broken:
            notes.add(*self._broken[key])
            return notes.nothing()
        picture = open_image_file(self.image_path(key), self._folders, notes)
        if picture is None:
            return notes.nothing()
        draft = RecordBuilder(picture, notes)
        for i, entry in self._entries[key]:
            draft.check_size(entry.get("height"), entry.get("width"))
            self._fill(draft, entry, f"entry {i}")
        found = draft.result(PurePosixPath(key).stem, self.name, self.split)
        if found.record is None and not found.defects:
            return ReadResult(None, (Defect(NO_ANNOTATION, notes.where),))
        return found

    def image_path(self, key: str) -> Path | None:
        """Where the picture of a key lies."""
        return find_image(self._root, self._folders, key)

    def _sort_in(self, i: int, entry: Any) -> None:
        fields = self._image_fields(entry)
        name = fields.get("file_name") if isinstance(fields, dict) else None
        if isinstance(name, str) and name:
            self._entries.setdefault(name, []).append((i, fields))
        else:
            self._broken[f"entry {i}"] = (BROKEN_ENTRY, f"names no picture: {quoted(entry)}")

    def _coco(self, file: Path) -> CocoFile:
        """A file in COCO's layout; what belongs to no picture of it is broken."""
        layout = read_coco(file)
        self._broken |= layout.strays
        return layout

    def _load(self) -> Iterable[Any]:
        entries = read_json(self._file)
        if not isinstance(entries, list):
            raise SourceError(
                f"{self._file}: a list of pictures is expected, not {quoted(entries)}"
            )
        return entries

    def _image_fields(self, entry: Any) -> Any:
        """An entry with its picture's name as `file_name`."""
        return entry

    @abstractmethod
    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        """Add what an entry says about its picture."""


class CocoSource(GroupedSource):
    """The same of a file in COCO's layout: what is said stands in annotations of the entries."""

    def _load(self) -> Iterable[Any]:
        self._layout = self._coco(self._file)
        return self._layout.images

    def _said(self, entry: Fields) -> Iterable[tuple[Fields, str]]:
        """The annotations of an entry, and where they stand."""
        for annotation in self._layout.annotations.get(as_id(entry.get("id")) or "", []):
            yield annotation, f"annotation {quoted(annotation.get('id'))}"
