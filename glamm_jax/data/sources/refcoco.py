"""refCOCO, refCOCO+, refCOCOg and refCLEF: what people said to point at one thing of a picture.

    Refer_Segm/{refcoco,refcoco+,refcocog,refclef}/{instances.json, refs(unc).p or refs(umd).p}
    coco_2014/train2014 or Refer_Segm/coco_2014/train2014    pictures of the first three (trap 36)
    Refer_Segm/images/saiapr_tc-12                           pictures of refCLEF

One record a picture, one `referring` annotation a sentence, stripped and lower-cased as the model
is asked (trap 41). Splits: train, val, and test, testA, testB, testC where a dataset has them.
Source: dataset/segm_datasets/RefCOCO_Segm_ds.py, dataset/utils/refcoco_refer.py. Differs: pictures
come in the order of the references (the original's is that of a set), all sentences are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.coco_file import Strays, read_coco
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.safe_pickle import PickleError, load_plain
from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    MISSING_IMAGE,
    UNKNOWN_ID,
    DefectLog,
    Fields,
    SourceError,
    as_fields,
    as_id,
    as_list,
    as_text,
    find_image,
    first_existing,
    quoted,
    read_image_file,
    require_split,
)

COCO_FOLDERS = ("Refer_Segm/coco_2014/train2014", "coco_2014/train2014")
CLEF_FOLDERS = ("Refer_Segm/images/saiapr_tc-12",)
SPLITS = ("train", "val", "test", "testA", "testB", "testC")


class ReferSource:
    """References of one dataset and split, gathered by picture.

    folder: the dataset's own, which is also its name. owner: who made the splits.
    Raises: SourceError when a file is absent or damaged, or there is no such split.
    """

    def __init__(self, root: Path, split: str, *, folder: str, owner: str):
        require_split(folder, split, SPLITS)
        self.name, self.split, self._root = folder, split, root
        self._folders = CLEF_FOLDERS if folder == "refclef" else COCO_FOLDERS
        base = first_existing(root, [f"Refer_Segm/{folder}"])
        instances = read_coco(base / "instances.json")
        self._images: dict[str, Fields] = {}
        for image in instances.images:
            identity = as_id(image.get("id")) if isinstance(image, dict) else None
            if identity is not None:
                self._images.setdefault(identity, image)
        self._objects = {
            as_id(item.get("id")): item
            for listed in instances.annotations.values()
            for item in listed
        }
        self._refs: dict[str, list[tuple[int, Fields]]] = {}
        self._broken: Strays = dict(instances.strays)
        for i, ref in enumerate(_read_refs(base / f"refs({owner}).p")):
            self._sort_in(i, ref)

    @property
    def keys(self) -> Sequence[str]:
        """Ids of pictures in the order of their first reference, then what names no picture."""
        return [*self._refs, *self._broken]

    def read(self, key: str) -> ReadResult:
        """All sentences about a picture."""
        notes = DefectLog(f"{self.name} {quoted(key)}")
        if key in self._broken:
            notes.add(*self._broken[key])
            return notes.nothing()
        path = self.image_path(key)
        if path is None:
            name = self._images.get(key, {}).get("file_name")
            notes.add(MISSING_IMAGE, f"{quoted(name)} not in {' or '.join(self._folders)}")
        picture = read_image_file(path, notes) if path else None
        if picture is None:
            return notes.nothing()
        draft = RecordBuilder(picture, notes)
        draft.check_size(self._images[key].get("height"), self._images[key].get("width"))
        regions: dict[str, int | None] = {}
        for i, ref in self._refs[key]:
            self._add(draft, ref, f"ref {i}", regions)
        return draft.result(key, self.name, self.split)

    def image_path(self, key: str) -> Path | None:
        """Where the picture of a key lies."""
        name = self._images.get(key, {}).get("file_name")
        return find_image(self._root, self._folders, name) if isinstance(name, str) else None

    def _sort_in(self, i: int, ref: Any) -> None:
        fields = ref if isinstance(ref, dict) else {}
        image, split = as_id(fields.get("image_id")), fields.get("split")
        if isinstance(split, str) and not _in_split(split, self.split):
            return
        if image is None or not isinstance(split, str):
            self._broken[f"ref {i}"] = (BROKEN_ENTRY, f"names no picture or split: {quoted(ref)}")
        elif image not in self._images:
            self._broken[f"ref {i}"] = (UNKNOWN_ID, f"picture {quoted(image)} is not listed")
        else:
            self._refs.setdefault(image, []).append((i, fields))

    def _add(
        self, draft: RecordBuilder, ref: Fields, where: str, regions: dict[str, int | None]
    ) -> None:
        """The sentences of one reference; references to one object share its region."""
        notes, identity = draft.notes, as_id(ref.get("ann_id"))
        target = self._objects.get(identity)
        if identity is None or target is None:
            notes.add(UNKNOWN_ID, f"{where}: object {quoted(ref.get('ann_id'))}")
            return
        if identity not in regions:
            name = f"{where}, object {identity}"
            shape = draft.mask(target.get("segmentation"), name)
            box = draft.box(target.get("bbox"), name, xywh=True)
            regions[identity] = None if shape is None else draft.region(box, shape)
        region = regions[identity]
        if region is None:
            return
        for i, item in enumerate(as_list(ref.get("sentences"), notes, f"{where}, sentences")):
            name = f"{where}, sentence {i}"
            sentence = as_fields(item, notes, name)
            text = as_text(sentence.get("sent"), notes, name).strip().lower() if sentence else ""
            if text:
                draft.annotate("referring", text, [region])


def _in_split(given: str, split: str) -> bool:
    """Whether a reference is of a split; its own may be "testAB", which is of two."""
    if split in ("train", "val"):
        return given == split
    return "test" in given if split == "test" else given.startswith("test") and split[-1] in given


def _read_refs(path: Path) -> Iterable[Any]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    try:
        refs = load_plain(path.read_bytes())
    except PickleError as error:
        raise SourceError(f"{path}: {error}; fetch the file again") from error
    if not isinstance(refs, list):
        raise SourceError(f"{path}: a list of references is expected, not {quoted(refs)}")
    return refs


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    name: partial(ReferSource, folder=name, owner=owner)
    for name, owner in (
        ("refcoco", "unc"),
        ("refcoco+", "unc"),
        ("refcocog", "umd"),
        ("refclef", "unc"),
    )
}
