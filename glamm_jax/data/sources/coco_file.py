"""Files in COCO's layout: lists of images, annotations and categories, joined by ids."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    DUPLICATE_ID,
    UNKNOWN_ID,
    DefectsByKey,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.json_files import Fields, as_id, read_json


class CocoFile(NamedTuple):
    """The content of a file in COCO's layout, in the order of the file.

    Attributes:
        images: entries of images, as listed; their types are not checked.
        annotations: id of an image -> its annotations.
        unassigned: defects of annotations that belong to no image, and of duplicate ids.
        categories: as listed; empty if there are none.
    """

    images: list[Any]
    annotations: dict[str, list[Fields]]
    unassigned: DefectsByKey
    categories: list[Any]


def read_coco(path: Path) -> CocoFile:
    """Read a file with the lists `images` and `annotations`.

    Raises:
        SourceError: it is missing, not JSON, or has no such lists.
    """
    fields = read_json(path)
    names = ("images", "annotations", "categories")
    lists = [fields.get(name) if isinstance(fields, dict) else None for name in names]
    images, annotations, categories = lists
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise SourceError(f"{path}: no lists named images and annotations")
    id_counts = Counter(as_id(image.get("id")) for image in images if isinstance(image, dict))
    by_image: dict[str, list[Fields]] = {image: [] for image in id_counts if image is not None}
    unassigned: DefectsByKey = {
        f"{path.name} image {quoted(image)}": (
            DUPLICATE_ID,
            f"{id_counts[image]} images have this id",
        )
        for image in by_image
        if id_counts[image] > 1
    }
    for i, annotation in enumerate(annotations):
        key = f"{path.name} annotation {i}"
        image = as_id(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image is None:
            unassigned[key] = (BROKEN_ENTRY, f"no image id: {quoted(annotation)}")
        elif image not in by_image:
            unassigned[key] = (UNKNOWN_ID, f"image {quoted(image)} is not in the list of images")
        else:
            by_image[image].append(annotation)
    return CocoFile(
        images, by_image, unassigned, categories if isinstance(categories, list) else []
    )
