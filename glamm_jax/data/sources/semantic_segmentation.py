"""Semantic segmentation: label maps with a class for each pixel, and masks of objects and parts.

    Semantic_Segm/ade20k/{annotations,images}/{training,validation}
    Semantic_Segm/{cocostuff,coco_stuff}/{train2017,val2017}, coco_2017/{train2017,val2017}
    Semantic_Segm/mapillary/config_v2.0.json, {training,validation}/{v2.0/labels,images}
    Semantic_Segm/paco_lvis/annotations/paco_lvis_v1_{train,val,test}.json, coco_2017
    Semantic_Segm/pascal_part/{train,val}.json, VOCdevkit/VOC2010/JPEGImages

The documentation of the original has no folder Semantic_Segm (quirk 36), so it is optional.

Label maps (the first three): every class of an image is one `semantic` annotation. Labels that the
original ignores give none: 0 in ADE20K, whose classes start at 1, 255 in the others, and names with
a hyphen in COCO-Stuff (quirk 41).

PACO and PASCAL-Part: every object or part is one annotation. A part gets two, for both of the names
that the original samples from: "dog head" and "the head of the dog". The polygons of an object are
united, as in the original (it adds them in the referring sets).

Source: dataset/segm_datasets/Semantic_Segm_ds.py. Differs: the original joins the image paths of
the last two wrongly, so that they always fail (quirk 37), and stops at a label without a name.
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
from glamm_jax.data.sources.dataset_files import (
    find_image,
    first_existing,
    open_image_file,
    require_split,
)
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    MASK_SIZE,
    NO_ANNOTATION,
    UNKNOWN_CLASS,
    DefectLog,
    DefectsByKey,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.grouped_by_image import CocoSource, files_by_split
from glamm_jax.data.sources.json_files import Fields, as_id, read_json
from glamm_jax.data.sources.mask_annotations import MaskAnnotation
from glamm_jax.data.sources.mask_files import read_label_map
from glamm_jax.data.sources.record_builder import RecordBuilder

UNLABELLED = 255
TRAINING = {"train": "training", "val": "validation"}
TRAIN2017 = {"train": "train2017", "val": "val2017"}


class LabelMapSource(ABC):
    """Images with a label map each, a .png of class ids; keys are file names without suffix.

    Attributes:
        name: of the dataset.
        split_folders: split -> name of its folders.
        label_folders: where label maps may be, below the data folder; {} is the split's folder.
        image_folders: where images may be.
        ignored: labels that are no class.
        requires_labels: whether an image without a label map is a defect. COCO-Stuff shares the
            images of COCO and labels some of them.
        classes: label -> name of the class.
    """

    name = ""
    split_folders: Mapping[str, str]
    label_folders: Sequence[str]
    image_folders: Sequence[str]
    ignored: Collection[int] = (UNLABELLED,)
    requires_labels = True

    def __init__(self, root: Path, split: str):
        """List the images.

        Raises:
            SourceError: the labels or the class names are missing or broken, or there is no such
                split.
        """
        require_split(self.name, split, self.split_folders)
        self.split, self._root = split, root
        folder = self.split_folders[split]
        self._labels = first_existing(root, [place.format(folder) for place in self.label_folders])
        self._folders = [place.format(folder) for place in self.image_folders]
        self._unassigned: DefectsByKey = {}
        self.classes = self._read_classes()
        stems = {path.stem for path in self._labels.glob("*.png")}
        for place in self._folders if self.requires_labels else ():
            stems |= {path.stem for path in (root / place).glob("*.jpg")}
        self._stems = sorted(stems)

    @property
    def keys(self) -> Sequence[str]:
        """Names of images in alphabetical order, then classes without a name."""
        return [*self._stems, *self._unassigned]

    def read(self, key: str) -> ReadResult:
        """Read every class of an image with its mask."""
        log = DefectLog(f"{self.name} {quoted(key)}")
        if key in self._unassigned:
            log.add(*self._unassigned[key])
            return log.no_record()
        image = open_image_file(self.image_path, key, f"not in {' or '.join(self._folders)}", log)
        labels = read_label_map(self._labels, f"{key}.png", log, "labels") if image else None
        if image is None or labels is None:
            return log.no_record()
        builder = RecordBuilder(image, log)
        if labels.shape == (image.height, image.width):
            self._add_classes(builder, labels)
        else:
            size = f"{labels.shape[0]} x {labels.shape[1]}"
            log.add(MASK_SIZE, f"{size} in an image of {image.height} x {image.width}")
        return builder.build(key, self.name, self.split)

    def image_path(self, key: str) -> Path | None:
        """Return the path of the image of a key; None if there is no such file."""
        return find_image(self._root, self._folders, f"{key}.jpg")

    def _add_classes(self, builder: RecordBuilder, labels: np.ndarray) -> None:
        labels = np.asfortranarray(labels)  # run lengths go down the columns; convert once for all
        present = set(map(int, np.unique(labels))) - set(self.ignored)
        for label in sorted(present):
            if label not in self.classes:
                builder.log.add(UNKNOWN_CLASS, f"{label}")
                continue
            runs = rle.encode(labels == label)
            region = builder.add_region(None, MaskAnnotation(runs["counts"].encode("ascii")))
            if region is not None:
                builder.add_annotation("semantic", self.classes[label], [region])
        if not present:
            builder.log.add(NO_ANNOTATION, "no pixel has a class")

    @abstractmethod
    def _read_classes(self) -> Mapping[int, str]:
        """The names of the classes by their labels."""


class ADE20KSource(LabelMapSource):
    """ADE20K: scenes with 150 classes, labelled from 1; 0 is unlabelled."""

    name = "ade20k"
    split_folders = TRAINING
    label_folders = ("Semantic_Segm/ade20k/annotations/{}", "ade20k/annotations/{}")
    image_folders = ("Semantic_Segm/ade20k/images/{}", "ade20k/images/{}")
    ignored = (0,)

    def _read_classes(self) -> Mapping[int, str]:
        return dict(enumerate(ADE20K, 1))


class COCOStuff(LabelMapSource):
    """COCO-Stuff: images of COCO 2017 with classes of things and stuff."""

    name = "coco_stuff"
    split_folders = TRAIN2017
    label_folders = (
        *("Semantic_Segm/cocostuff/{}", "Semantic_Segm/coco_stuff/{}"),
        *("coco_stuff/{}", "cocostuff/{}"),
    )
    image_folders = ("coco_2017/{}",)
    ignored = (UNLABELLED, *(i for i, name in enumerate(COCO_STUFF) if "-" in name))
    requires_labels = False

    def _read_classes(self) -> Mapping[int, str]:
        return dict(enumerate(COCO_STUFF))


class Mapillary(LabelMapSource):
    """Mapillary Vistas: street scenes. A file lists the class names, which are lower-cased."""

    name = "mapillary"
    split_folders = TRAINING
    label_folders = ("Semantic_Segm/mapillary/{}/v2.0/labels", "mapillary/{}/v2.0/labels")
    image_folders = ("Semantic_Segm/mapillary/{}/images", "mapillary/{}/images")
    configs = ("Semantic_Segm/mapillary/config_v2.0.json", "mapillary/config_v2.0.json")

    def _read_classes(self) -> Mapping[int, str]:
        path = first_existing(self._root, self.configs)
        config = read_json(path)
        labels = config.get("labels") if isinstance(config, dict) else None
        if not isinstance(labels, list):
            raise SourceError(f"{path}: no list named labels")
        classes = {}
        for i, label in enumerate(labels):
            name = label.get("readable") if isinstance(label, dict) else None
            if isinstance(name, str) and name.strip():
                classes[i] = name.strip().lower()
            else:
                problem = BROKEN_ENTRY, f"no class name: {quoted(label)}"
                self._unassigned[f"{path.name} label {i}"] = problem
        return classes


class PartSource(CocoSource):
    """Objects and their parts in COCO's layout; categories are called "object" or "object:part"."""

    def _read_entries(self) -> Iterable[Any]:
        images = super()._read_entries()
        self._names: dict[str, tuple[str, ...]] = {}
        for i, category in enumerate(self._coco.categories):
            fields = category if isinstance(category, dict) else {}
            category_id, names = as_id(fields.get("id")), _category_names(fields.get("name"))
            if category_id is None or not names:
                problem = BROKEN_ENTRY, f"neither object nor object:part: {quoted(category)}"
                self._unassigned[f"{self._file.name} category {i}"] = problem
            else:
                self._names[category_id] = names
        return images

    def _add_entry(self, builder: RecordBuilder, entry: Fields, where: str) -> None:
        for annotation, place in self._annotations(entry):
            category = annotation.get("category_id")
            names = self._names.get(as_id(category) or "")
            if names is None:
                builder.log.add(UNKNOWN_CLASS, f"{place}: category {quoted(category)}")
                continue
            mask = builder.parse_mask(annotation.get("segmentation"), place)
            region = builder.add_region(None, mask and mask._replace(overlap=None))
            if region is not None:
                for name in names:
                    builder.add_annotation("semantic", name, [region])


def _category_names(name: Any) -> tuple[str, ...]:
    """The names of a category: one of an object, two of a part; () for anything else.

    Source: Semantic_Segm_ds.py:41. Text in brackets tells meanings of a word apart; it is dropped.
    """
    parts = name.split(":") if isinstance(name, str) else []
    match [part.split("_(")[0].strip() for part in parts]:
        case [object_name] if object_name:
            return (object_name,)
        case [object_name, part] if object_name and part:
            return f"{object_name} {part}", f"the {part} of the {object_name}"
    return ()


class PACO(PartSource):
    """PACO-LVIS: objects and parts in images of COCO 2017; image names contain their folder."""

    name = "paco_lvis"
    files = files_by_split(
        ("train", "val", "test"),
        "Semantic_Segm/paco_lvis/annotations/paco_lvis_v1_{}.json",
        "paco_lvis/annotations/paco_lvis_v1_{}.json",
    )
    image_folders = ("coco_2017",)


class PASCALPart(PartSource):
    """PASCAL-Part: parts of animals, vehicles and people."""

    name = "pascal_part"
    files = files_by_split(
        ("train", "val"), "Semantic_Segm/pascal_part/{}.json", "pascal_part/{}.json"
    )
    image_folders = (
        "Semantic_Segm/pascal_part/VOCdevkit/VOC2010/JPEGImages",
        "pascal_part/VOCdevkit/VOC2010/JPEGImages",
    )


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {
    source.name: source for source in (ADE20KSource, COCOStuff, Mapillary, PACO, PASCALPart)
}
