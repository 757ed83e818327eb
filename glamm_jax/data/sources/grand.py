"""GranD: annotations of SA-1B's pictures, four kinds of them at once.

    grand       one JSON a picture, as released, in tar archives or folders (below)
    grand_lmdb  the two LMDBs that the original's pretraining reads

From one picture come referring expressions and region descriptions (attributes of objects), short
captions, and a grounded caption (`dense_caption`, whose phrases name objects by id), for which the
original has no reader. `additional_context` is not used.

    GranD_Data/images/sa_1.jpg                          pictures, in both cases
    GranD_Data/**/{sa_1.json, *.tar, *.tar.gz}          released annotations
    GranD_Data/Grand_{Referring_Expression,Caption_Grounding}_lmdb/
        data.mdb, <name of the folder>_{Train,Val}.txt  names of pictures; without them all

The folder GranD_Data itself may be given, too.
Source: GranD/prepare_annotations, dataset/{segm,region,caption}_datasets/GranD_*.py. Differs: those
three classes fail (trap 38); validation is the whole list (the original stops at 1000); objects
with the same attribute are one referring expression, which means all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.archives import ArchiveError, Archives, Member
from glamm_jax.data.sources.grand_lmdb import CAPTIONS, EXPRESSIONS, GrandDatabase
from glamm_jax.data.sources.grand_texts import (
    add_captions,
    data_folder,
    describe,
    expressions,
    image_path,
)
from glamm_jax.data.sources.phrase_spans import Phrases
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import (
    BROKEN_ARCHIVE,
    BROKEN_ENTRY,
    DUPLICATE_ID,
    MISSING_ENTRY,
    MISSING_IMAGE,
    UNKNOWN_ID,
    DefectLog,
    Fields,
    SourceError,
    as_fields,
    as_id,
    as_list,
    as_text,
    parse_json,
    quoted,
    read_image_file,
)

OTHER_FOLDERS = frozenset({"images", EXPRESSIONS, CAPTIONS})


class GrandFiles:
    """The released annotations, one JSON a picture, in folders and archives.

    Raises: SourceError when there are none, or the split is not "train": no other was released.
    """

    name = "grand"

    def __init__(self, root: Path, split: str):
        if split != "train":
            raise SourceError(f"{self.name}: no split {split!r}; all that was released is train")
        self.split, self._folder = split, data_folder(root)
        self._archives = Archives(self._folder, ".json", OTHER_FOLDERS)
        self._members: dict[str, Member] = {}
        self._broken: dict[str, tuple[str, str]] = {}
        for member in self._archives.members:
            key = Path(member.name).stem
            if self._members.setdefault(key, member) is not member:
                place = f"{member.path.relative_to(self._folder)} {member.name} {member.offset}"
                self._broken[place] = (DUPLICATE_ID, f"{key} was in {self._members[key].path}")
        for path, reason in self._archives.damaged.items():
            self._broken[f"archive {path.relative_to(self._folder)}"] = (BROKEN_ARCHIVE, reason)
        if not self.keys:
            databases = any((self._folder / each).is_dir() for each in (EXPRESSIONS, CAPTIONS))
            hint = f"; its LMDBs are read as {GrandDatabase.name}" if databases else ""
            raise SourceError(f"{self._folder}: no .json and no archive with .json in it{hint}")

    @property
    def keys(self) -> Sequence[str]:
        """Names of annotation files without their ending, then what could not be listed."""
        return [*self._members, *self._broken]

    def read(self, key: str) -> ReadResult:
        """All four kinds of annotations of a picture."""
        notes = DefectLog(f"{self.name} {quoted(key)}")
        if key in self._broken:
            notes.add(*self._broken[key])
            return notes.nothing()
        name, scene = self._scene(key, notes)
        path = image_path(self._folder, name) if name else None
        if name and path is None:
            notes.add(MISSING_IMAGE, f"{quoted(name)} not in {self._folder / 'images'}")
        picture = read_image_file(path, notes) if path else None
        if picture is None:
            return notes.nothing()
        draft = RecordBuilder(picture, notes)
        objects = _Objects(draft, scene)
        describe(draft, objects.described())
        add_captions(draft, scene.get("short_captions"), "short caption")
        _ground(draft, scene.get("dense_caption"), objects)
        return draft.result(Path(name).stem, self.name, self.split)

    def _scene(self, key: str, notes: DefectLog) -> tuple[str, Fields]:
        """The picture's name and its fields; "" where they cannot be had."""
        try:
            value = parse_json(self._archives.read(self._members[key]))
        except (ArchiveError, ValueError) as error:
            notes.add(BROKEN_ENTRY, str(error))
            return "", {}
        entries = as_fields(value, notes, "file")
        if len(entries) != 1:
            notes.add(BROKEN_ENTRY, f"one picture is expected, not {len(entries)}")
        for name, scene in list(entries.items())[:1]:
            fields = as_fields(scene, notes, quoted(name))
            return (name if Path(name).suffix else f"{name}.jpg"), fields
        return "", {}


class _Objects:
    """Objects and floating objects of a scene; each becomes a region when something names it."""

    def __init__(self, draft: RecordBuilder, scene: Fields):
        self._draft = draft
        self._items: list[tuple[Fields, str]] = []
        self._by_id: dict[str, int] = {}
        self._regions: dict[int, int | None] = {}
        for group in ("objects", "floating_objects"):
            for i, value in enumerate(as_list(scene.get(group), draft.notes, group)):
                self._list(as_fields(value, draft.notes, f"{group} {i}"), f"{group} {i}")

    def _list(self, item: Fields, where: str) -> None:
        """Ids have gaps, and some exist among the floating objects only."""
        identity = as_id(item.get("id"))
        if identity is not None and self._by_id.setdefault(identity, len(self._items)) != len(
            self._items
        ):
            self._draft.notes.add(DUPLICATE_ID, f"{where}: {identity}")
        self._items.append((item, where))

    def described(self) -> list[tuple[str, int]]:
        """Attributes of objects, with their regions; what floats was found by one model only."""
        found = []
        for i, (item, where) in enumerate(self._items):
            if where.startswith("floating"):
                continue
            for text in expressions(item, self._draft.notes, where):
                region = self._region(i)
                found += [] if region is None else [(text, region)]
        return found

    def by_id(self, identity: Any) -> int | None:
        """The region of an id; None and a defect where there is none."""
        place = self._by_id.get(as_id(identity) or "")
        if place is None:
            self._draft.notes.add(UNKNOWN_ID, f"object {quoted(identity)}")
            return None
        return self._region(place)

    def _region(self, place: int) -> int | None:
        if place not in self._regions:
            item, where = self._items[place]
            box = self._draft.box(item.get("bbox"), where)
            shape = self._draft.mask(item.get("segmentation"), where)
            self._regions[place] = self._draft.region(box, shape)
        return self._regions[place]


def _ground(draft: RecordBuilder, dense: Any, objects: _Objects) -> None:
    """The dense caption; spans were made before its punctuation was taken out."""
    notes, where = draft.notes, "dense caption"
    if dense is None:
        notes.add(MISSING_ENTRY, where)
        return
    fields = as_fields(dense, notes, where)
    text = as_text(fields.get("caption"), notes, where).strip() if fields else ""
    if not text:
        return
    phrases = Phrases(text, notes, where)
    for i, value in enumerate(as_list(fields.get("details"), notes, where)):
        name = f"{where}, detail {i}"
        detail = as_fields(value, notes, name)
        phrase = as_text(detail.get("phrase"), notes, name) if detail else ""
        ids = as_list(detail.get("ids"), notes, f"{name}, ids") if phrase else []
        found = [objects.by_id(identity) for identity in ids]
        regions = [region for region in found if region is not None and draft.has_mask(region)]
        if regions:
            phrases.place(phrase, detail.get("tokens_positive"), regions, may_be_stale=True)
    draft.annotate_phrases(text, phrases, where)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    GrandFiles.name: GrandFiles,
    GrandDatabase.name: GrandDatabase,
}
