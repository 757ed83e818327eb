"""GranD: annotations of images of SA-1B, of four kinds for each image.

    grand       as released: one JSON for each image, in tar archives or folders (below)
    grand_lmdb  the two LMDBs that pretraining of the original reads

The annotations of an image are referring expressions and captions of boxes (attributes of objects),
short captions, and a grounded caption (`dense_caption`, whose phrases name objects by id), for
which the original has no reader. `additional_context` is not used.

    GranD_Data/images/sa_1.jpg                          images, of both forms
    GranD_Data/**/{sa_1.json, *.tar, *.tar.gz}          released annotations
    GranD_Data/Grand_{Referring_Expression,Caption_Grounding}_lmdb/
        data.mdb, <name of the folder>_{Train,Val}.txt  lists of images; without them all are train

The data folder may also be GranD_Data itself.
Source: GranD/prepare_annotations, dataset/{segm,region,caption}_datasets/GranD_*.py. Differs: those
three classes fail in the original (quirk 38); validation is the complete list (the original stops
at 1000); objects with the same attribute are one referring expression, which refers to all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.archives import ArchiveError, Archives, Member
from glamm_jax.data.sources.dataset_files import open_image_file, require_split
from glamm_jax.data.sources.defects import (
    BROKEN_ARCHIVE,
    BROKEN_ENTRY,
    DUPLICATE_ID,
    MISSING_ENTRY,
    UNKNOWN_ID,
    DefectLog,
    DefectsByKey,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.grand_lmdb import CAPTIONS, EXPRESSIONS, GrandLMDB
from glamm_jax.data.sources.grand_texts import (
    add_expressions,
    add_short_captions,
    data_folder,
    image_path,
    object_expressions,
)
from glamm_jax.data.sources.json_files import Fields, as_fields, as_id, as_list, as_text
from glamm_jax.data.sources.phrase_spans import PhraseSpans
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.files import FileNameError
from glamm_jax.json_files import parse_json

SKIPPED_FOLDERS = frozenset({"images", EXPRESSIONS, CAPTIONS})


class GrandFiles:
    """The released annotations: one JSON for each image, in folders and archives.

    Keys are names of annotation files without suffix. An archive or file that cannot be listed has
    a key of its own, under which only its defect is read.
    """

    name = "grand"

    def __init__(self, root: Path, split: str):
        """List the annotation files.

        Raises:
            SourceError: there are none, or the split is not "train": no other was released.
        """
        require_split(self.name, split, ["train"])
        self.split, self._folder = split, data_folder(root)
        self._archives = Archives(self._folder, ".json", SKIPPED_FOLDERS)
        self._members: dict[str, Member] = {}
        self._unassigned: DefectsByKey = {}
        for member in self._archives.members:
            key = Path(member.name).stem
            if self._members.setdefault(key, member) is not member:
                place = f"{member.path.relative_to(self._folder)} {member.name} {member.offset}"
                problem = DUPLICATE_ID, f"{key} is also in {self._members[key].path}"
                self._unassigned[place] = problem
        for path, reason in self._archives.damaged.items():
            self._unassigned[f"archive {path.relative_to(self._folder)}"] = (BROKEN_ARCHIVE, reason)
        if not self.keys:
            databases = any((self._folder / name).is_dir() for name in (EXPRESSIONS, CAPTIONS))
            hint = f"; use the dataset {GrandLMDB.name} for its LMDBs" if databases else ""
            raise SourceError(f"{self._folder}: contains no .json and no archive with .json{hint}")

    @property
    def keys(self) -> Sequence[str]:
        """Names of annotation files without suffix, then what could not be listed."""
        return [*self._members, *self._unassigned]

    def read(self, key: str) -> ReadResult:
        """Read all four kinds of annotations of an image."""
        log = DefectLog(f"{self.name} {quoted(key)}")
        if key in self._unassigned:
            log.add(*self._unassigned[key])
            return log.no_record()
        name, scene = self._read_scene(key, log)
        if not name:
            return log.no_record()
        places = f"{quoted(name)} not in {self._folder / 'images'}"
        image = open_image_file(partial(image_path, self._folder), name, places, log)
        if image is None:
            return log.no_record()
        builder = RecordBuilder(image, log)
        objects = _Objects(builder, scene)
        add_expressions(builder, objects.expressions())
        add_short_captions(builder, scene.get("short_captions"), "short caption")
        _add_dense_caption(builder, scene.get("dense_caption"), objects)
        return builder.build(Path(name).stem, self.name, self.split)

    def _read_scene(self, key: str, log: DefectLog) -> tuple[str, Fields]:
        """The name of the image, and its annotations; "" where they cannot be read."""
        try:
            value = parse_json(self._archives.read(self._members[key]), "file")
        except (ArchiveError, ValueError) as error:
            log.add(BROKEN_ENTRY, str(error))
            return "", {}
        entries = as_fields(value, log, "file")
        if len(entries) != 1:
            log.add(BROKEN_ENTRY, f"annotations of {len(entries)} images; must be of one")
        for name, scene in list(entries.items())[:1]:
            fields = as_fields(scene, log, quoted(name))
            return self._image_name(name), fields
        return "", {}

    def _image_name(self, name: str) -> str:
        """The image file of a key; in some files a key lacks the extension."""
        if not Path(name).suffix:
            with suppress(FileNameError):
                if image_path(self._folder, name) is None:
                    return f"{name}.jpg"
        return name


class _Objects:
    """Objects and floating objects of a scene; each becomes a region when a text refers to it."""

    def __init__(self, builder: RecordBuilder, scene: Fields):
        self._builder = builder
        self._items: list[tuple[Fields, str]] = []  # fields and place
        self._index_by_id: dict[str, int] = {}
        self._regions: dict[int, int | None] = {}  # index -> region
        # Ids have gaps, and some belong to floating objects only.
        for group in ("objects", "floating_objects"):
            for i, value in enumerate(as_list(scene.get(group), builder.log, group)):
                where, index = f"{group} {i}", len(self._items)
                item = as_fields(value, builder.log, where)
                object_id = as_id(item.get("id"))
                if (
                    object_id is not None
                    and self._index_by_id.setdefault(object_id, index) != index
                ):
                    builder.log.add(DUPLICATE_ID, f"{where}: {object_id}")
                self._items.append((item, where))

    def expressions(self) -> list[tuple[str, int]]:
        """Expressions with the index of their region.

        Floating objects, which only one detector found, have none.
        """
        expressions = []
        for i, (item, where) in enumerate(self._items):
            if where.startswith("floating"):
                continue
            for text in object_expressions(item, self._builder.log, where):
                region = self._region(i)
                expressions += [] if region is None else [(text, region)]
        return expressions

    def region_of_id(self, object_id: Any) -> int | None:
        """The region of an object; None and a defect where there is none."""
        index = self._index_by_id.get(as_id(object_id) or "")
        if index is None:
            self._builder.log.add(UNKNOWN_ID, f"object {quoted(object_id)}")
            return None
        return self._region(index)

    def _region(self, index: int) -> int | None:
        if index not in self._regions:
            item, where = self._items[index]
            box = self._builder.parse_box(item.get("bbox"), where)
            mask = self._builder.parse_mask(item.get("segmentation"), where)
            self._regions[index] = self._builder.add_region(box, mask)
        return self._regions[index]


def _add_dense_caption(builder: RecordBuilder, dense: Any, objects: _Objects) -> None:
    """Add the dense caption. Its spans are stale: punctuation was removed after they were made."""
    log, where = builder.log, "dense caption"
    if dense is None:
        log.add(MISSING_ENTRY, where)
        return
    fields = as_fields(dense, log, where)
    text = as_text(fields.get("caption"), log, where).strip() if fields else ""
    if not text:
        return
    phrases = PhraseSpans(text, log, where)
    for i, value in enumerate(as_list(fields.get("details"), log, where)):
        place = f"{where}, detail {i}"
        detail = as_fields(value, log, place)
        phrase = as_text(detail.get("phrase"), log, place) if detail else ""
        ids = as_list(detail.get("ids"), log, f"{place}, ids") if phrase else []
        regions = [objects.region_of_id(object_id) for object_id in ids]
        masked = [region for region in regions if region is not None and builder.has_mask(region)]
        if masked:
            phrases.add_phrase(phrase, detail.get("tokens_positive"), masked, may_be_stale=True)
    builder.add_grounded_caption(text, phrases, where)


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    GrandFiles.name: GrandFiles,
    GrandLMDB.name: GrandLMDB,
}
