"""The JSON files of the GranD release, one for each image.

    OUT/GranD_Data/annotations/sa_1.json        {"sa_1.jpg": {"objects": [...], ...}}
    OUT/GranD_Data/images/sa_1.jpg              where images are placed
    OUT/export.json

The annotations of a .jpg are named by its stem, as released, and all others by the complete name of
the image, so images whose names differ in the extension only have different files.
Source: docs/GranD.md and the writers of the original, GranD/utils. Differs: the original writes in
place, and reads the names of .jpg files only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    no_callback,
)
from glamm_jax.grand.export.images import (
    REPEATED_NAME,
    ExportItem,
    ImagePlacement,
    place_image,
)
from glamm_jax.grand.export.output import export_folder, json_text
from glamm_jax.grand.export.summary import ExportSummary

FORMAT = "grand-json"
DATA_FOLDER, ANNOTATIONS, IMAGES = "GranD_Data", "annotations", "images"
RECORD_KEYS = (
    *("objects", "floating_objects", "floating_attributes", "landmark", "affordances"),
    *("id_counter", "relationships", "captions", "short_captions", "dense_caption"),
    "additional_context",
)
OBJECT_KEYS = (
    *("id", "bbox", "labels", "label", "score", "attributes", "depth", "segmentation"),
    *("segmentation_source", "group_id"),
)
SHORT_DETAIL_KEYS = ("phrase", "tokens_positive", "id", "bbox")
DENSE_DETAIL_KEYS = ("phrase", "tokens_positive", "ids", "bbox")


def export_grand_json(
    items: Iterable[ExportItem],
    out: Path,
    *,
    filters: ExportFilters = NO_FILTERS,
    images: ImagePlacement = "none",
    own_keys: bool = False,
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write the released JSON files.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        filters: what to leave out.
        images: whether to copy or link the image files.
        own_keys: keep what the released files do not have: votes, relations, checks.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    options = {"images": images, "own_keys": own_keys}
    summary = ExportSummary(FORMAT, options, filters.to_json())
    with export_folder(out, summary, overwrite) as folder:
        data = folder / DATA_FOLDER
        (data / ANNOTATIONS).mkdir(parents=True)
        for image, record in filter_items(items, filters, summary, on_image):
            path = data / ANNOTATIONS / annotation_name(image.file_name)
            if path.exists():
                summary.dropped[REPEATED_NAME] += 1
                continue
            if not place_image(image, data / IMAGES / image.file_name, images, summary.dropped):
                continue
            value = record.to_json()
            text = json_text({image.file_name: value if own_keys else released_form(value)})
            path.write_text(text, encoding="ascii")
            summary.num_images += 1
            summary.counts["objects"] += len(record.objects)
            summary.counts["floating objects"] += len(record.floating_objects)
            summary.counts["short captions"] += len(record.short_captions or record.captions)
            summary.counts["dense captions"] += record.dense_caption is not None
            summary.counts["additional contexts"] += record.additional_context is not None
    return summary


def annotation_name(file_name: str) -> str:
    """Return the name of the annotation file of an image file."""
    return f"{released_stem(file_name)}.json"


def released_stem(file_name: str) -> str:
    """Return the name of a .jpg without extension, and all other names as they are."""
    return file_name.removesuffix(".jpg") or file_name


def released_form(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON form of a record with the keys of the released files only."""
    result = {key: value[key] for key in RECORD_KEYS if key in value}
    for name in ("objects", "floating_objects", "floating_attributes"):
        if isinstance(result.get(name), list):
            result[name] = [_only(item, OBJECT_KEYS) for item in result[name]]
    if result.get("short_captions"):
        result["short_captions"] = [
            _caption(item, SHORT_DETAIL_KEYS) for item in result["short_captions"]
        ]
    if result.get("dense_caption"):
        result["dense_caption"] = _caption(result["dense_caption"], DENSE_DETAIL_KEYS)
    return result


def _only(item: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    return {key: item[key] for key in keys if key in item}


def _caption(item: Any, keys: tuple[str, ...]) -> dict[str, Any]:
    details = [_only(detail, keys) for detail in item.get("details") or ()]
    return {"caption": item["caption"], "details": details}
