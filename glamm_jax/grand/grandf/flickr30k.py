"""Flickr30k: its captions unchanged, with a mask for each box.

    flikcr_30k/mdetr_annotations/final_flickr_mergedGT_{train,val}.json, or RefCoco_Reg/...
    flikcr_30k/flickr30k-images, or flikcr_30k/{train,val}

The file is in COCO's layout: the images with their captions, and annotations with `sam_mask` beside
`bbox` and `tokens_positive`. A box without a mask is left out and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glamm_jax.data import rle
from glamm_jax.data.sources.coco_file import read_coco
from glamm_jax.data.sources.dataset_files import find_image, first_existing
from glamm_jax.data.sources.json_files import Fields, as_id
from glamm_jax.data.sources.region_captions import FlickrRegions
from glamm_jax.files import FileNameError
from glamm_jax.grand.export.coco import clipped_box
from glamm_jax.grand.record import Box

FILE_NAME = "flickr_mergedGT_GCG_{split}.json"
BROKEN_IMAGE, NO_IMAGE = "images: broken entry", "images: no image file"
NO_BOX, EMPTY_MASK = "boxes: not in the image", "boxes: empty mask"


@dataclass(frozen=True)
class BoxedImage:
    """An image with a caption and the boxes of its phrases.

    Attributes:
        key: id of the image.
        entry: of the image, unchanged.
        annotations: of the image, unchanged.
        boxes: of `annotations`, clipped to the image.
        path: of the image file.
    """

    key: str
    entry: Fields
    annotations: tuple[Fields, ...]
    boxes: tuple[Box, ...]
    path: Path


def read_flickr30k(root: Path, split: str, dropped: Counter[str]) -> list[BoxedImage]:
    """Read the images of a split that have boxes.

    Args:
        root: the data folder.
        split: "train" or "val".
        dropped: receives what is left out.

    Raises:
        SourceError: a file is missing or damaged.
    """
    content = read_coco(first_existing(root, FlickrRegions.files[split]))
    folders = [folder.format(split) for folder in FlickrRegions.image_folders]
    images = []
    for entry in content.images:
        image = _image(root, folders, entry, content.annotations, dropped)
        if image is not None:
            images.append(image)
    return images


def _image(
    root: Path,
    folders: Sequence[str],
    entry: Any,
    annotations: dict[str, list[Fields]],
    dropped: Counter[str],
) -> BoxedImage | None:
    try:
        key, name = as_id(entry["id"]), str(entry["file_name"])
        height, width = int(entry["height"]), int(entry["width"])
        path = find_image(root, folders, name)
    except (KeyError, TypeError, ValueError, FileNameError):
        dropped[BROKEN_IMAGE] += 1
        return None
    if key is None or path is None:
        dropped[NO_IMAGE if key else BROKEN_IMAGE] += 1
        return None
    usable, boxes = [], []
    for annotation in annotations[key]:
        box = _box(annotation, height, width)
        if box is None:
            dropped[NO_BOX] += 1
        else:
            usable.append(annotation)
            boxes.append(box)
    return BoxedImage(key, entry, tuple(usable), tuple(boxes), path)


def _box(annotation: Fields, height: int, width: int) -> Box | None:
    try:
        x, y, w, h = map(float, annotation["bbox"])
    except (KeyError, TypeError, ValueError):
        return None
    return clipped_box((x, y, x + w, y + h), height, width)


def flickr30k_annotations(
    image: BoxedImage, masks: Sequence[dict[str, Any]], dropped: Counter[str]
) -> list[Fields]:
    """Return the annotations of the file.

    Args:
        image: the image.
        masks: COCO run lengths, one for each box.
        dropped: receives what is left out.
    """
    annotations = []
    for annotation, mask in zip(image.annotations, masks, strict=True):
        if rle.area(mask):
            annotations.append({**annotation, "sam_mask": mask})
        else:
            dropped[EMPTY_MASK] += 1
    return annotations
