"""Dense captions in the format of GranD_f's human-annotated part.

    OUT/GranDf/annotations/train/GranDf_HA_GCG_train.json
    OUT/GranDf/GranDf_HA_images/train/NAME                  where images are placed
    OUT/export.json

The file lists {file_name, height, width, image_id, caption, groundings: {phrase: {token_positives,
rle_masks}}}. Groundings are keyed by their phrase, so that a phrase is grounded once. Captions that
people have reviewed (`glamm-jax annotate review`) are written as they left them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from glamm_jax.data.sources.grandf import TRAIN, GranDfHumanAnnotated
from glamm_jax.grand.export.coco import BAD_MASK, valid_mask
from glamm_jax.grand.export.filters import NO_FILTERS, ExportFilters, filter_items, no_callback
from glamm_jax.grand.export.images import (
    AnnotatedImage,
    ExportItem,
    ImagePlacement,
    place_image,
)
from glamm_jax.grand.export.output import export_folder, json_text
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import GrandRecord

FORMAT = "grandf"
FILE = f"{TRAIN}/GranDf_HA_GCG_train.json"
IMAGES = GranDfHumanAnnotated.image_folders[0]
NO_CAPTION, NO_PHRASE = "images: no dense caption", "images: no phrase with a mask"
REPEATED, NO_MASK = "phrases: repeated", "phrases: no mask"
BAD_SPAN = "phrases: not in the caption"


def export_grandf(
    items: Iterable[ExportItem],
    out: Path,
    *,
    filters: ExportFilters = NO_FILTERS,
    images: ImagePlacement = "none",
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write the file of captions.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        filters: what to leave out.
        images: whether to copy or link the image files.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    summary = ExportSummary(FORMAT, {"images": images}, filters.to_json())
    with export_folder(out, summary, overwrite) as folder:
        path = folder / FILE
        path.parent.mkdir(parents=True)
        with path.open("x", encoding="ascii", newline="\n") as file:
            file.write("[")
            for image, record in filter_items(items, filters, summary, on_image):
                entry = _entry(image, record, summary)
                target = folder / IMAGES / image.file_name
                if entry is None or not place_image(image, target, images, summary.dropped):
                    continue
                file.write((",\n" if summary.num_images else "\n") + json_text(entry))
                summary.num_images += 1
                summary.counts["phrases"] += len(entry["groundings"])
            file.write("\n]\n")
    return summary


def _entry(
    image: AnnotatedImage, record: GrandRecord, summary: ExportSummary
) -> dict[str, Any] | None:
    if record.dense_caption is None:
        summary.dropped[NO_CAPTION] += 1
        return None
    masks: dict[int, dict[str, Any]] = {}
    for item in (*record.objects, *record.floating_objects):
        mask = valid_mask(item, image.height, image.width)
        if mask is not None:
            masks.setdefault(item.id, mask)
        elif item.mask is not None:
            summary.dropped[BAD_MASK] += 1
    text, groundings = record.dense_caption.caption, {}
    for grounding in record.dense_caption.groundings:
        own = [masks[i] for i in dict.fromkeys(grounding.object_ids) if i in masks]
        start, end = grounding.span or (0, 0)
        phrase = text[start:end]
        if not phrase:
            summary.dropped[BAD_SPAN] += 1
        elif not own:
            summary.dropped[NO_MASK] += 1
        elif phrase in groundings:
            summary.dropped[REPEATED] += 1
        else:
            groundings[phrase] = {"token_positives": [start, end], "rle_masks": own}
    if not groundings:
        summary.dropped[NO_PHRASE] += 1
        return None
    return {
        "file_name": image.file_name,
        "height": image.height,
        "width": image.width,
        "image_id": image.image_id,
        "caption": text,
        "groundings": groundings,
    }
