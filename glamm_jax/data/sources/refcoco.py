"""RefCOCO, RefCOCO+, RefCOCOg and RefCLEF: referring expressions, each for one object.

    Refer_Segm/{refcoco,refcoco+,refcocog,refclef}/{instances.json, refs(unc).p or refs(umd).p}
    coco_2014/train2014 or Refer_Segm/coco_2014/train2014    images of the first three
    Refer_Segm/images/saiapr_tc-12                           images of RefCLEF

The documentation and the code of the original place the COCO images differently (quirk 36), so both
places are read. One record for each image, one `referring` annotation for each sentence, stripped
and lower-cased as in the prompts of the original (quirk 41). Splits: train, val, and test, testA,
testB, testC where a dataset has them.
Source: dataset/segm_datasets/RefCOCO_Segm_ds.py, dataset/utils/refcoco_refer.py. Differs: images
are in the order of the references (the original's are in the order of a set), and all sentences are
kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.coco_file import read_coco
from glamm_jax.data.sources.dataset_files import (
    find_image,
    first_existing,
    open_image_file,
    require_split,
)
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    UNKNOWN_ID,
    DefectLog,
    DefectsByKey,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.json_files import Fields, as_fields, as_id, as_list, as_text
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.safe_pickle import PickleError, load_plain

COCO_FOLDERS = ("Refer_Segm/coco_2014/train2014", "coco_2014/train2014")
CLEF_FOLDERS = ("Refer_Segm/images/saiapr_tc-12",)
SPLITS = {
    **dict.fromkeys(("refcoco", "refcoco+"), ("train", "val", "test", "testA", "testB")),
    "refcocog": ("train", "val", "test"),
    "refclef": ("train", "val", "test", "testA", "testB", "testC"),
}


class RefCOCOSource:
    """The references of one dataset and split, grouped by image; keys are ids of images."""

    def __init__(self, root: Path, split: str, *, folder: str, owner: str):
        """Read the annotations.

        Args:
            root: the data folder.
            split: one of the dataset's `SPLITS`.
            folder: below Refer_Segm; it is also the name of the dataset.
            owner: of the splits, as in the name of the file of references: "unc" or "umd".

        Raises:
            SourceError: a file is missing or damaged, or there is no such split.
        """
        require_split(folder, split, SPLITS[folder])
        self.name, self.split, self._root = folder, split, root
        self._folders = CLEF_FOLDERS if folder == "refclef" else COCO_FOLDERS
        base = first_existing(root, [f"Refer_Segm/{folder}"])
        instances = read_coco(base / "instances.json")
        self._images: dict[str, Fields] = {}
        for image in instances.images:
            image_id = as_id(image.get("id")) if isinstance(image, dict) else None
            if image_id is not None:
                self._images.setdefault(image_id, image)
        self._objects = {
            as_id(item.get("id")): item
            for annotations in instances.annotations.values()
            for item in annotations
        }
        # References of each image, with their positions in the file.
        self._refs: dict[str, list[tuple[int, Fields]]] = {}
        self._unassigned: DefectsByKey = dict(instances.unassigned)
        path = base / f"refs({owner}).p"
        if not path.is_file():
            raise SourceError(f"{path}: no such file")
        try:
            refs = load_plain(path.read_bytes())
        except PickleError as error:
            hint = "; is the file complete?" if str(error).startswith("damaged") else ""
            raise SourceError(f"{path}: {error}{hint}") from error
        if not isinstance(refs, list):
            raise SourceError(f"{path}: must hold a list of references, not {quoted(refs)}")
        for i, ref in enumerate(refs):
            self._assign_ref(i, ref)

    @property
    def keys(self) -> Sequence[str]:
        """Ids of images in the order of their first reference, then what has no image."""
        return [*self._refs, *self._unassigned]

    def read(self, key: str) -> ReadResult:
        """Read all sentences about an image."""
        log = DefectLog(f"{self.name} {quoted(key)}")
        if key in self._unassigned:
            log.add(*self._unassigned[key])
            return log.no_record()
        name = quoted(self._images.get(key, {}).get("file_name"))
        places = f"{name} not in {' or '.join(self._folders)}"
        image = open_image_file(self.image_path, key, places, log)
        if image is None:
            return log.no_record()
        builder = RecordBuilder(image, log)
        builder.check_size(self._images[key].get("height"), self._images[key].get("width"))
        regions: dict[str, int | None] = {}
        for i, ref in self._refs[key]:
            self._add_ref(builder, ref, f"ref {i}", regions)
        return builder.build(key, self.name, self.split)

    @property
    def image_ids(self) -> Sequence[str]:
        """Ids of the images that have references, in the order of their first one."""
        return [*self._refs]

    def file_name(self, key: str) -> str:
        """Return the name of the file of an image, "" if the file of instances has none."""
        name = self._images.get(key, {}).get("file_name")
        return name if isinstance(name, str) else ""

    def referred_objects(self, key: str) -> list[tuple[Fields, list[str]]]:
        """Return the objects that references of an image refer to, each with its sentences.

        Sentences are stripped and lower-cased. What is malformed is left out; `read` names it.
        """
        objects: dict[str, tuple[Fields, list[str]]] = {}
        for _, ref in self._refs[key]:
            object_id = as_id(ref.get("ann_id"))
            target = self._objects.get(object_id)
            if object_id is None or target is None:
                continue
            sentences = ref.get("sentences")
            for item in sentences if isinstance(sentences, list) else ():
                text = item.get("sent") if isinstance(item, dict) else None
                if isinstance(text, str) and text.strip():
                    objects.setdefault(object_id, (target, []))[1].append(text.strip().lower())
        return [*objects.values()]

    def image_path(self, key: str) -> Path | None:
        """Return the path of the image of a key; None if there is no such file."""
        name = self._images.get(key, {}).get("file_name")
        return find_image(self._root, self._folders, name) if isinstance(name, str) else None

    def _assign_ref(self, i: int, ref: Any) -> None:
        """Assign a reference of this split to its image."""
        fields = ref if isinstance(ref, dict) else {}
        image, split = as_id(fields.get("image_id")), fields.get("split")
        if isinstance(split, str) and not _in_split(split, self.split):
            return
        if image is None or not isinstance(split, str):
            self._unassigned[f"ref {i}"] = (BROKEN_ENTRY, f"no image or no split: {quoted(ref)}")
        elif image not in self._images:
            problem = f"image {quoted(image)} is not in the list of images"
            self._unassigned[f"ref {i}"] = (UNKNOWN_ID, problem)
        else:
            self._refs.setdefault(image, []).append((i, fields))

    def _add_ref(
        self, builder: RecordBuilder, ref: Fields, where: str, regions: dict[str, int | None]
    ) -> None:
        """Add the sentences of one reference; references to one object share its region.

        regions: object -> region, of the references before; extended here.
        """
        log, object_id = builder.log, as_id(ref.get("ann_id"))
        target = self._objects.get(object_id)
        if object_id is None or target is None:
            log.add(UNKNOWN_ID, f"{where}: object {quoted(ref.get('ann_id'))}")
            return
        if object_id not in regions:
            place = f"{where}, object {object_id}"
            mask = builder.parse_mask(target.get("segmentation"), place)
            box = builder.parse_box(target.get("bbox"), place, xywh=True)
            regions[object_id] = None if mask is None else builder.add_region(box, mask)
        region = regions[object_id]
        if region is None:
            return
        for i, item in enumerate(as_list(ref.get("sentences"), log, f"{where}, sentences")):
            place = f"{where}, sentence {i}"
            sentence = as_fields(item, log, place)
            text = as_text(sentence.get("sent"), log, place).strip().lower() if sentence else ""
            if text:
                builder.add_annotation("referring", text, [region])


def _in_split(ref_split: str, split: str) -> bool:
    """Whether a reference belongs to a split; its own may be "testAB", which is part of two."""
    if split in ("train", "val"):
        return ref_split == split
    if split == "test":
        return "test" in ref_split
    return ref_split.startswith("test") and split[-1] in ref_split


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    name: partial(RefCOCOSource, folder=name, owner=owner)
    for name, owner in (
        ("refcoco", "unc"),
        ("refcoco+", "unc"),
        ("refcocog", "umd"),
        ("refclef", "unc"),
    )
}
