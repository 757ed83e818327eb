"""Base classes of readers of one annotation file with several entries for each image."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from glamm_jax.data.record import Defect, ReadResult
from glamm_jax.data.sources.coco_file import CocoFile, read_coco
from glamm_jax.data.sources.dataset_files import (
    find_image,
    first_existing,
    open_image_file,
    require_split,
)
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    NO_ANNOTATION,
    DefectLog,
    DefectsByKey,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.json_files import Fields, as_id, read_json
from glamm_jax.data.sources.record_builder import RecordBuilder


def files_by_split(splits: Sequence[str], *places: str) -> dict[str, list[str]]:
    """Return the places where the file of each split may be; {} in a place is the split."""
    return {split: [place.format(split) for place in places] for split in splits}


class GroupedSource(ABC):
    """A source whose file lists entries with the name of their image; one record for each image.

    An entry without an image has a key of its own, under which only its defect is read.

    Attributes:
        name: of the dataset.
        files: split -> places where its file may be, below the data folder.
        image_folders: where images may be, below the data folder; {} is the split.
    """

    name = ""
    files: Mapping[str, Sequence[str]]
    image_folders: Sequence[str]

    def __init__(self, root: Path, split: str):
        """Read the annotations.

        Raises:
            SourceError: they are missing or not JSON, or there is no such split.
        """
        require_split(self.name, split, self.files)
        self.split, self._root = split, root
        self._folders = [folder.format(split) for folder in self.image_folders]
        self._file = first_existing(root, self.files[split])
        # Entries of each image, with their positions in the file.
        self._entries: dict[str, list[tuple[int, Fields]]] = {}
        self._unassigned: DefectsByKey = {}
        for i, entry in enumerate(self._read_entries()):
            fields = self._with_file_name(entry)
            name = fields.get("file_name") if isinstance(fields, dict) else None
            if isinstance(name, str) and name:
                self._entries.setdefault(name, []).append((i, fields))
            else:
                self._unassigned[f"entry {i}"] = (BROKEN_ENTRY, f"no image name: {quoted(entry)}")

    @property
    def keys(self) -> Sequence[str]:
        """File names of images, in the order of the file, then the entries without an image."""
        return [*self._entries, *self._unassigned]

    def read(self, key: str) -> ReadResult:
        """Read all annotations of an image."""
        log = DefectLog(f"{self._file.name} {quoted(key)}")
        if key in self._unassigned:
            log.add(*self._unassigned[key])
            return log.no_record()
        image = open_image_file(self.image_path, key, f"not in {' or '.join(self._folders)}", log)
        if image is None:
            return log.no_record()
        builder = RecordBuilder(image, log)
        for i, entry in self._entries[key]:
            builder.check_size(entry.get("height"), entry.get("width"))
            self._add_entry(builder, entry, f"entry {i}")
        result = builder.build(PurePosixPath(key).stem, self.name, self.split)
        if result.record is None and not result.defects:
            return ReadResult(None, (Defect(NO_ANNOTATION, log.where),))
        return result

    def image_path(self, key: str) -> Path | None:
        """Return the path of the image of a key; None if there is no such file.

        LLaVA's mix665k has "coco/train2017/" in front of the names, other files "train2017/"; such
        a folder is left out if it is one of the dataset's.
        """
        path = find_image(self._root, self._folders, key)
        name = PurePosixPath(key)
        if path is None and len(name.parts) > 1:
            same = [x for x in self._folders if PurePosixPath(x).name == name.parts[-2]]
            path = find_image(self._root, same, name.name)
        return path

    def _read_coco(self, file: Path) -> CocoFile:
        """A file in COCO's layout; what belongs to none of its images gets keys of its own."""
        coco = read_coco(file)
        self._unassigned |= coco.unassigned
        return coco

    def _read_entries(self) -> Iterable[Any]:
        """The entries of the file; their types are not checked."""
        entries = read_json(self._file)
        if not isinstance(entries, list):
            raise SourceError(f"{self._file}: must hold a list of images, not {quoted(entries)}")
        return entries

    def _with_file_name(self, entry: Any) -> Any:
        """An entry with the name of its image as `file_name`."""
        return entry

    @abstractmethod
    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        """Add the annotations of one entry of an image."""


class CocoSource(GroupedSource):
    """A grouped source whose file has COCO's layout: the entries are its images."""

    def _read_entries(self) -> Iterable[Any]:
        self._coco = self._read_coco(self._file)
        return self._coco.images

    def _annotations(self, entry: Fields) -> Iterable[tuple[Fields, str]]:
        """The annotations of an entry, each with its place for defects."""
        for annotation in self._coco.annotations.get(as_id(entry.get("id")) or "", []):
            yield annotation, f"annotation {quoted(annotation.get('id'))}"
