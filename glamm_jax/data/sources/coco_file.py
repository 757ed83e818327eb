"""Files in COCO's layout: pictures in one list, what belongs to them in another, joined by ids."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from glamm_jax.data.sources.source_files import (
    BROKEN_ENTRY,
    DUPLICATE_ID,
    UNKNOWN_ID,
    Fields,
    SourceError,
    as_id,
    quoted,
    read_json,
)

# Key of something that belongs to no picture -> kind of the defect, and where.
Strays = dict[str, tuple[str, str]]


class CocoFile(NamedTuple):
    """Entries of pictures, and annotations by the picture's id, both in the order of the file.

    categories: as listed; empty where there are none.
    """

    images: list[Any]
    annotations: dict[str, list[Fields]]
    strays: Strays
    categories: list[Any]


def read_coco(path: Path) -> CocoFile:
    """A file with the lists `images` and `annotations`.

    Raises: SourceError when it is absent, no JSON, or has no such lists.
    """
    fields = read_json(path)
    names = ("images", "annotations", "categories")
    lists = [fields.get(name) if isinstance(fields, dict) else None for name in names]
    images, annotations, categories = lists
    if not isinstance(images, list) or not isinstance(annotations, list):
        raise SourceError(f"{path}: has no lists named images and annotations")
    known = Counter(as_id(image.get("id")) for image in images if isinstance(image, dict))
    by_image: dict[str, list[Fields]] = {image: [] for image in known if image is not None}
    strays: Strays = {
        f"{path.name} image {quoted(image)}": (
            DUPLICATE_ID,
            f"{known[image]} pictures have this id",
        )
        for image in by_image
        if known[image] > 1
    }
    for i, annotation in enumerate(annotations):
        key = f"{path.name} annotation {i}"
        image = as_id(annotation.get("image_id")) if isinstance(annotation, dict) else None
        if image is None:
            strays[key] = (BROKEN_ENTRY, f"names no picture: {quoted(annotation)}")
        elif image not in by_image:
            strays[key] = (
                UNKNOWN_ID,
                f"annotation of picture {quoted(image)}, which is not listed",
            )
        else:
            by_image[image].append(annotation)
    listed = categories if isinstance(categories, list) else []
    return CocoFile(images, by_image, strays, listed)
