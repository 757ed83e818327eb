"""OpenPSG: a caption of an image that says what its relations say.

    psg.json, or psg/psg.json, OpenPSG/psg.json           relations, and the images of the test
    coco_2017/annotations/panoptic_{train,val}2017/*.png  masks; other places: PANOPTIC_FOLDERS
    coco_2017/annotations/captions_{train,val}2017.json   captions for context, if they are there

The language model gets numbered names ("dog-1"), so that each word of its caption is known to mean
one segment; in the caption of the file the numbers, and the ending "-merged" of stuff, are removed.
A phrase is a name with its determiner, "another person". Groundings are keyed by their phrase, so
one that occurs again for another segment is left out and counted. The images of the test are the
split "val".
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from glamm_jax.data import rle
from glamm_jax.data.preprocess import MAX_IMAGE_BYTES, ImageError, open_raster
from glamm_jax.data.sources.dataset_files import find_image, first_existing
from glamm_jax.data.sources.defects import SourceError, quoted
from glamm_jax.data.sources.json_files import Fields, as_id, read_json
from glamm_jax.files import FileNameError, read_regular_file
from glamm_jax.grand.grandf.caption_rewriting import ENTITY, RewriteTask
from glamm_jax.grand.grandf.human_captions import captions_of

FILE_NAME = "OpenPsgGCG_{split}.json"
SPLITS = ("train", "val")
PLACES = ("psg.json", "psg/psg.json", "OpenPSG/psg.json", "coco_2017/psg.json")
PANOPTIC_FOLDERS = (
    "coco_2017/annotations",
    "coco_2017",
    "coco",
    "psg/coco",
    "OpenPSG/coco",
)
CAPTION_FILES = tuple(f"coco_2017/annotations/captions_{split}2017.json" for split in SPLITS)
BROKEN_ENTRY, BROKEN_RELATION = "images: broken entry", "relations: broken"
NO_RELATION, NO_PANOPTIC = "images: no relation", "images: no panoptic segmentation"
REPEATED_PHRASE, NO_SEGMENT = "phrases: repeated", "phrases: segment without pixels"
TOO_MANY = "relations: more than fit a caption"
MAX_RELATIONS = 12  # of a caption
# Stands before a name and belongs to its phrase.
_DETERMINER = re.compile(
    r"(?<!\w)(?:an?|the|this|that|these|those|another|one|two|three|four|five|six|some|several|both"
    r"|each|his|her|its|their)\s$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class SegmentedImage:
    """An image with a panoptic scene graph.

    Attributes:
        key: id of the image.
        file_name: without folder.
        size: height and width.
        panoptic_name: of the segmentation, below one of `PANOPTIC_FOLDERS`.
        segments: numbered name ("dog-1") -> id of its segment.
        relations: as "SUBJECT, PREDICATE, OBJECT".
        captions: that people wrote.
    """

    key: str
    file_name: str
    size: tuple[int, int]
    panoptic_name: str
    segments: Mapping[str, int]
    relations: tuple[str, ...]
    captions: tuple[str, ...]

    @property
    def task(self) -> RewriteTask:
        """What its caption is made of."""
        return RewriteTask(self.key, "psg", self.relations, self.captions)


def read_open_psg(root: Path, split: str, dropped: Counter[str]) -> list[SegmentedImage]:
    """Read the images of a split.

    Args:
        root: the data folder.
        split: "train" or "val".
        dropped: receives what is left out.

    Raises:
        SourceError: a file is missing or damaged.
    """
    path = first_existing(root, PLACES)
    content = read_json(path)
    lists = ("data", "thing_classes", "stuff_classes", "predicate_classes", "test_image_ids")
    if not isinstance(content, dict) or not all(isinstance(content.get(x), list) for x in lists):
        raise SourceError(f"{path}: has not the lists {', '.join(lists)}")
    classes = [*map(str, content["thing_classes"]), *map(str, content["stuff_classes"])]
    predicates = [*map(str, content["predicate_classes"])]
    test_ids = {as_id(x) for x in content["test_image_ids"]}
    captions = captions_of(root, CAPTION_FILES)
    images = []
    for entry in content["data"]:
        key = as_id(entry.get("image_id")) if isinstance(entry, dict) else None
        if key is None:
            dropped[BROKEN_ENTRY] += 1
        elif (key in test_ids) == (split == "val"):
            image = _image(entry, key, classes, predicates, captions, dropped)
            if image is not None:
                images.append(image)
    return images


def _image(
    entry: Fields,
    key: str,
    classes: Sequence[str],
    predicates: Sequence[str],
    captions: Mapping[str, tuple[str, ...]],
    dropped: Counter[str],
) -> SegmentedImage | None:
    try:
        names, ids = [], []
        numbers: Counter[str] = Counter()
        for segment in entry["segments_info"]:
            name = _entity_name(_at(classes, segment["category_id"]))
            numbers[name] += 1
            names.append(f"{name}-{numbers[name]}")
            ids.append(int(segment["id"]))
        size = int(entry["height"]), int(entry["width"])
        file_name, panoptic = str(entry["file_name"]), str(entry["pan_seg_file_name"])
        stated = entry["relations"]
        if not isinstance(stated, list):
            raise TypeError
    except (KeyError, TypeError, ValueError, IndexError, AttributeError):
        dropped[BROKEN_ENTRY] += 1
        return None
    relations: dict[str, None] = {}
    for relation in stated:
        try:
            subject, target, predicate = relation
            line = f"{_at(names, subject)}, {_at(predicates, predicate)}, {_at(names, target)}"
        except (TypeError, ValueError, IndexError):
            dropped[BROKEN_RELATION] += 1
            continue
        if len(relations) < MAX_RELATIONS:
            relations.setdefault(line)
        else:
            dropped[TOO_MANY] += line not in relations
    if not relations:
        dropped[NO_RELATION] += 1
        return None
    return SegmentedImage(
        key,
        file_name.rpartition("/")[2],
        size,
        panoptic,
        dict(zip(names, ids, strict=True)),
        tuple(relations),
        captions.get(as_id(entry.get("coco_image_id")) or key, ()),
    )


def _at(items: Sequence[str], index: Any) -> str:
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise IndexError
    return items[index]


def _entity_name(name: str) -> str:
    """A class as one word that a number can follow."""
    return re.sub(r"[^\w-]+", "_", name.strip()).strip("-_")


def shown_name(entity: str) -> str:
    """Return a numbered name as it is shown: "wall-other-merged-2" is "wall"."""
    name = entity.rpartition("-")[0].removesuffix("-merged").removesuffix("-other")
    return name.replace("_", " ").replace("-", " ")


def panoptic_ids(root: Path, image: SegmentedImage) -> Int[np.ndarray, "h w"]:
    """Return the id of the segment of every pixel.

    Args:
        root: the data folder.
        image: of the segmentation.

    Raises:
        SourceError: it is missing, damaged or of another size.
    """
    try:
        path = find_image(root, PANOPTIC_FOLDERS, image.panoptic_name)
        if path is None:
            raise SourceError(
                f"{quoted(image.panoptic_name)} is in none of {', '.join(PANOPTIC_FOLDERS)}"
            )
        picture = open_raster(read_regular_file(path, MAX_IMAGE_BYTES), path.name)
        pixels = np.asarray(picture.convert("RGB"), np.int64)
    except (ImageError, FileNameError, OSError) as error:
        raise SourceError(f"{quoted(image.panoptic_name)}: {error}") from error
    if pixels.shape[:2] != image.size:
        raise SourceError(
            f"{quoted(image.panoptic_name)} has {pixels.shape[:2]} pixels, the image {image.size}"
        )
    return pixels @ np.array([1, 1 << 8, 1 << 16])


def open_psg_entry(
    image: SegmentedImage, caption: str, ids: Int[np.ndarray, "h w"], dropped: Counter[str]
) -> Fields | None:
    """Return the entry of the file; None if the caption has no grounded phrase.

    Args:
        image: the image.
        caption: of it, with numbered names.
        ids: of `panoptic_ids`.
        dropped: receives what is left out.
    """
    text, spans = without_numbers(caption, image.segments)
    groundings: dict[str, Fields] = {}
    for start, end, entity in spans:
        determiner = _DETERMINER.search(text[:start])
        span = (determiner.start() if determiner else start), end
        phrase = text[slice(*span)]
        if phrase in groundings and groundings[phrase]["entity"] == entity:
            continue  # the same thing once more
        mask = ids == image.segments[entity]
        if phrase in groundings or not mask.any():
            dropped[REPEATED_PHRASE if phrase in groundings else NO_SEGMENT] += 1
            continue
        groundings[phrase] = {
            "token_positives": [*span],
            "rle_masks": [rle.encode(mask)],
            "entity": entity,
        }
    if not groundings:
        return None
    for grounding in groundings.values():
        del grounding["entity"]
    height, width = image.size
    return {
        "file_name": image.file_name,
        "height": height,
        "width": width,
        "image_id": image.key,
        "caption": text,
        "groundings": groundings,
    }


def without_numbers(
    caption: str, entities: Mapping[str, Any]
) -> tuple[str, list[tuple[int, int, str]]]:
    """Replace numbered names by the names alone.

    Args:
        caption: with numbered names.
        entities: the names that exist; others stay as they are.

    Returns:
        The text, and start, end and numbered name of each replaced one.
    """
    by_name = {name.lower(): name for name in entities}
    parts: list[str] = []
    spans: list[tuple[int, int, str]] = []
    length = position = 0
    for match in ENTITY.finditer(caption):
        entity = by_name.get(match[0].lower())
        if entity is None:
            continue
        before = caption[position : match.start()]
        name = shown_name(entity)
        if _starts_sentence(caption[: match.start()]):
            name = name[:1].upper() + name[1:]
        parts += [before, name]
        length += len(before)
        spans.append((length, length + len(name), entity))
        length += len(name)
        position = match.end()
    return "".join([*parts, caption[position:]]), spans


def _starts_sentence(text: str) -> bool:
    return not text.strip() or text.rstrip().endswith((".", "!", "?"))
