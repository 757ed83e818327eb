"""Semantic segmentation: what class every pixel is of, or what object a polygon is and its part.

    Semantic_Segm/ade20k/{annotations,images}/{training,validation}
    Semantic_Segm/{cocostuff,coco_stuff}/{train2017,val2017}, coco_2017/{train2017,val2017}
    Semantic_Segm/mapillary/config_v2.0.json, {training,validation}/{v2.0/labels,images}
    Semantic_Segm/paco_lvis/annotations/paco_lvis_v1_{train,val,test}.json, coco_2017
    Semantic_Segm/pascal_part/{train,val}.json, VOCdevkit/VOC2010/JPEGImages

The documentation names no folder around the last four (trap 36), so none is needed. Of a label map
every class of a picture is one `semantic` annotation; what the original ignores is no annotation:
0 in ADE20K, whose classes begin at 1, 255 in the others, and COCO-Stuff's names with a hyphen
(trap 41). Of PACO and PASCAL-Part every object or part is one, a part under both of the names that
the original draws from, "dog head" and "the head of the dog"; its parts are united where the
referring sets add them up.
Source: dataset/segm_datasets/Semantic_Segm_ds.py. Differs: it joins the paths of the last two
wrongly, so that they always fail (trap 37), and stops at a number that has no name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.class_names import ADE20K, COCO_STUFF
from glamm_jax.data.sources.coco_file import Strays
from glamm_jax.data.sources.grouped_by_image import CocoSource, files_of
from glamm_jax.data.sources.mask_annotations import MaskAnnotation, read_levels
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    MASK_SIZE,
    NO_ANNOTATION,
    UNKNOWN_CLASS,
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

UNLABELLED = 255
TRAINING = {"train": "training", "val": "validation"}
TRAIN2017 = {"train": "train2017", "val": "val2017"}


class LabelMapSource(ABC):
    """Pictures with a .png each whose numbers are classes. Keys are file names without suffix.

    Raises: SourceError when the labels or the names of the classes are absent or broken, or there
        is no such split.
    """

    name = ""
    folder_of: Mapping[str, str]  # split -> what its folders are called
    labels: Sequence[str]  # places of the labels, from the data folder; {} is the split's folder
    pictures: Sequence[str]
    ignored: Collection[int] = (UNLABELLED,)
    own_pictures = True  # a picture without labels is a loss; COCO-Stuff shares COCO's

    def __init__(self, root: Path, split: str):
        require_split(self.name, split, self.folder_of)
        self.split, self._root = split, root
        folder = self.folder_of[split]
        self._labels = first_existing(root, [place.format(folder) for place in self.labels])
        self._folders = [place.format(folder) for place in self.pictures]
        self._broken: Strays = {}
        self.classes = self._read_classes()  # number -> name
        stems = {path.stem for path in self._labels.glob("*.png")}
        for place in self._folders if self.own_pictures else ():
            stems |= {path.stem for path in (root / place).glob("*.jpg")}
        self._stems = sorted(stems)

    @property
    def keys(self) -> Sequence[str]:
        """Names of pictures in alphabetical order, then classes without a name."""
        return [*self._stems, *self._broken]

    def read(self, key: str) -> ReadResult:
        """Every class of a picture with its mask."""
        notes = DefectLog(f"{self.name} {quoted(key)}")
        if key in self._broken:
            notes.add(*self._broken[key])
            return notes.nothing()
        picture = open_image_file(self.image_path(key), self._folders, notes)
        levels = read_levels(self._labels, f"{key}.png", notes, "labels") if picture else None
        if picture is None or levels is None:
            return notes.nothing()
        draft = RecordBuilder(picture, notes)
        if levels.shape == (picture.height, picture.width):
            self._fill(draft, levels)
        else:
            size = f"{levels.shape[0]} x {levels.shape[1]}"
            notes.add(MASK_SIZE, f"{size} in a picture of {picture.height} x {picture.width}")
        return draft.result(key, self.name, self.split)

    def image_path(self, key: str) -> Path | None:
        """Where the picture of a key lies."""
        return find_image(self._root, self._folders, f"{key}.jpg")

    def _fill(self, draft: RecordBuilder, levels: np.ndarray) -> None:
        levels = np.asfortranarray(levels)  # as run lengths go, and once for all classes
        numbers = set(map(int, np.unique(levels))) - set(self.ignored)
        for number in sorted(numbers):
            if number not in self.classes:
                draft.notes.add(UNKNOWN_CLASS, f"{number}")
                continue
            runs = rle.encode(levels == number)
            region = draft.region(None, MaskAnnotation(runs["counts"].encode("ascii")))
            if region is not None:
                draft.annotate("semantic", self.classes[number], [region])
        if not numbers:
            draft.notes.add(NO_ANNOTATION, "no pixel has a class")

    @abstractmethod
    def _read_classes(self) -> Mapping[int, str]:
        """Names of classes by the numbers that stand for them."""


class ADE20KSource(LabelMapSource):
    """Scenes with 150 classes, from 1; 0 is none of them."""

    name = "ade20k"
    folder_of = TRAINING
    labels = ("Semantic_Segm/ade20k/annotations/{}", "ade20k/annotations/{}")
    pictures = ("Semantic_Segm/ade20k/images/{}", "ade20k/images/{}")
    ignored = (0,)

    def _read_classes(self) -> Mapping[int, str]:
        return dict(enumerate(ADE20K, 1))


class COCOStuff(LabelMapSource):
    """Pictures of COCO 2017 with things and stuff."""

    name = "coco_stuff"
    folder_of = TRAIN2017
    labels = (
        *("Semantic_Segm/cocostuff/{}", "Semantic_Segm/coco_stuff/{}"),
        *("coco_stuff/{}", "cocostuff/{}"),
    )
    pictures = ("coco_2017/{}",)
    ignored = (UNLABELLED, *(i for i, name in enumerate(COCO_STUFF) if "-" in name))
    own_pictures = False

    def _read_classes(self) -> Mapping[int, str]:
        return dict(enumerate(COCO_STUFF))


class Mapillary(LabelMapSource):
    """Streets. The names of classes, lower-cased, are in a file beside them."""

    name = "mapillary"
    folder_of = TRAINING
    labels = ("Semantic_Segm/mapillary/{}/v2.0/labels", "mapillary/{}/v2.0/labels")
    pictures = ("Semantic_Segm/mapillary/{}/images", "mapillary/{}/images")
    configs = ("Semantic_Segm/mapillary/config_v2.0.json", "mapillary/config_v2.0.json")

    def _read_classes(self) -> Mapping[int, str]:
        path = first_existing(self._root, self.configs)
        config = read_json(path)
        listed = config.get("labels") if isinstance(config, dict) else None
        if not isinstance(listed, list):
            raise SourceError(f"{path}: has no list named labels")
        classes = {}
        for i, label in enumerate(listed):
            name = label.get("readable") if isinstance(label, dict) else None
            if isinstance(name, str) and name.strip():
                classes[i] = name.strip().lower()
            else:
                self._broken[f"{path.name} label {i}"] = (BROKEN_ENTRY, f"no name: {quoted(label)}")
        return classes


class PartSource(CocoSource):
    """Objects and their parts in COCO's layout; categories are called "object" or "object:part"."""

    def _load(self) -> Iterable[Any]:
        images = super()._load()
        self._texts: dict[str, tuple[str, ...]] = {}
        for i, category in enumerate(self._layout.categories):
            fields = category if isinstance(category, dict) else {}
            identity, texts = as_id(fields.get("id")), _texts(fields.get("name"))
            if identity is None or not texts:
                problem = BROKEN_ENTRY, f"no object or object:part: {quoted(category)}"
                self._broken[f"{self._file.name} category {i}"] = problem
            else:
                self._texts[identity] = texts
        return images

    def _fill(self, draft: RecordBuilder, entry: Fields, where: str) -> None:
        for annotation, name in self._said(entry):
            category = annotation.get("category_id")
            texts = self._texts.get(as_id(category) or "")
            if texts is None:
                draft.notes.add(UNKNOWN_CLASS, f"{name}: category {quoted(category)}")
                continue
            shape = draft.mask(annotation.get("segmentation"), name)
            region = draft.region(None, shape and shape._replace(overlap=None))
            if region is not None:
                for text in texts:
                    draft.annotate("semantic", text, [region])


def _texts(name: Any) -> tuple[str, ...]:
    """What a category is called: an object by its name, a part in two ways; () for neither.

    Source: Semantic_Segm_ds.py:41: what stands in brackets tells meanings of a word apart.
    """
    listed = name.split(":") if isinstance(name, str) else []
    match [part.split("_(")[0].strip() for part in listed]:
        case [whole] if whole:
            return (whole,)
        case [whole, part] if whole and part:
            return f"{whole} {part}", f"the {part} of the {whole}"
    return ()


class PACO(PartSource):
    """Objects and parts in pictures of COCO 2017; names of pictures have a folder in them."""

    name = "paco_lvis"
    files = files_of(
        ("train", "val", "test"),
        "Semantic_Segm/paco_lvis/annotations/paco_lvis_v1_{}.json",
        "paco_lvis/annotations/paco_lvis_v1_{}.json",
    )
    folders = ("coco_2017",)


class PASCALPart(PartSource):
    """Parts of animals, vehicles and people."""

    name = "pascal_part"
    files = files_of(("train", "val"), "Semantic_Segm/pascal_part/{}.json", "pascal_part/{}.json")
    folders = (
        "Semantic_Segm/pascal_part/VOCdevkit/VOC2010/JPEGImages",
        "pascal_part/VOCdevkit/VOC2010/JPEGImages",
    )


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    each.name: each for each in (ADE20KSource, COCOStuff, Mapillary, PACO, PASCALPart)
}
