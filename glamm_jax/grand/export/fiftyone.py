"""A dataset for FiftyOne, to look at, filter and compare annotations.

    OUT/metadata.json
    OUT/samples.json
    OUT/data/NAME           the images, if they are copied or linked
    OUT/export.json

    import fiftyone as fo
    fo.Dataset.from_dir("OUT", dataset_type=fo.types.LegacyFiftyOneDataset)

A sample has the objects as detections, the phrases of the dense caption as classifications with
their positions and the indices of their objects, all captions, and the landmark. The mask of a
detection covers its bounding box, so an object with a mask has the box of the mask; the box of the
record is its attribute `box_xyxy_pixel`. The package fiftyone is not needed to write it.
"""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import rle
from glamm_jax.grand.export.coco import BAD_MASK, NO_BOX, NO_LABEL, clipped_box, valid_mask
from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    no_callback,
    object_name,
)
from glamm_jax.grand.export.images import (
    UNREADABLE,
    AnnotatedImage,
    ExportItem,
    ImagePlacement,
    image_split,
    place_image,
)
from glamm_jax.grand.export.output import export_folder, json_text
from glamm_jax.grand.export.record_texts import short_texts
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import GrandObject, GrandRecord

FORMAT = "fiftyone"
TAGS = {"train": "train", "val": "validation"}


def export_fiftyone(
    items: Iterable[ExportItem],
    out: Path,
    *,
    filters: ExportFilters = NO_FILTERS,
    validation_share: float = 0.0,
    images: ImagePlacement = "none",
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write a dataset.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        filters: what to leave out.
        validation_share: of the images, which get the tag "validation" instead of "train".
        images: whether to copy or link the image files; with "none" samples refer to the files by
            their path on this machine, and images without a path are copied.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    options = {"validation_share": validation_share, "images": images}
    summary = ExportSummary(FORMAT, options, filters.to_json())
    with export_folder(out, summary, overwrite) as folder:
        metadata = {"media_type": "image", "info": {}}
        (folder / "metadata.json").write_text(json_text(metadata) + "\n", encoding="ascii")
        with (folder / "samples.json").open("x", encoding="ascii", newline="\n") as file:
            file.write('{"samples": [')
            for image, record in filter_items(items, filters, summary, on_image):
                path = _placed(image, folder, images, summary)
                if path is None:
                    continue
                sample = {
                    "filepath": path,
                    "tags": [TAGS[image_split(image, validation_share)]],
                    "_media_type": "image",
                    **_fields(image, record, summary),
                }
                file.write((",\n" if summary.num_images else "\n") + json_text(sample))
                summary.num_images += 1
            file.write("\n]}\n")
    return summary


def _placed(
    image: AnnotatedImage, folder: Path, images: ImagePlacement, summary: ExportSummary
) -> str | None:
    """Return the path of the image file in the dataset; None if it cannot be exported."""
    if images == "none" and isinstance(image.content, Path):
        try:
            image.content.open("rb").close()
        except OSError:
            summary.dropped[UNREADABLE] += 1
            return None
        return str(image.content.absolute())
    path = folder / "data" / image.file_name
    placement: ImagePlacement = "copy" if images == "none" else images
    return f"data/{path.name}" if place_image(image, path, placement, summary.dropped) else None


def _fields(image: AnnotatedImage, record: GrandRecord, summary: ExportSummary) -> dict[str, Any]:
    detections = []
    for is_floating, group in ((False, record.objects), (True, record.floating_objects)):
        for item in group:
            detection = _detection(image, item, summary)
            if detection is not None:
                detections.append(detection | {"floating": is_floating})
    fields: dict[str, Any] = {
        "image_id": image.image_id,
        "objects": {"_cls": "Detections", "detections": detections},
        "short_captions": short_texts(record),
    }
    summary.counts["captions"] += len(fields["short_captions"])
    if record.dense_caption is not None:
        fields["caption"] = record.dense_caption.caption
        fields["verified"] = record.verified
        phrases = [
            {
                "_cls": "Classification",
                "tags": [],
                "label": grounding.phrase,
                "start": None if grounding.span is None else grounding.span[0],
                "end": None if grounding.span is None else grounding.span[1],
                "object_indices": list(grounding.object_ids),
            }
            for grounding in record.dense_caption.groundings
        ]
        fields["phrases"] = {"_cls": "Classifications", "classifications": phrases}
        summary.counts["dense captions"] += 1
        summary.counts["phrases"] += len(phrases)
    if record.landmark:
        fields["landmark"] = " / ".join(filter(None, record.landmark.values()))
    if record.additional_context:
        fields["additional_context"] = record.additional_context
    return fields


def _detection(
    image: AnnotatedImage, item: GrandObject, summary: ExportSummary
) -> dict[str, Any] | None:
    label, box = object_name(item), clipped_box(item.box, image.height, image.width)
    if label is None or box is None:
        summary.dropped[NO_LABEL if label is None else NO_BOX] += 1
        return None
    runs = valid_mask(item, image.height, image.width)
    mask_box = None if runs is None else rle.box(runs)
    if item.mask is not None and mask_box is None:
        summary.dropped[BAD_MASK] += 1
    x0, y0, x1, y1 = mask_box or box
    width, height = image.width, image.height
    detection: dict[str, Any] = {
        "_cls": "Detection",
        "tags": [],
        "attributes": {},
        "label": label,
        "bounding_box": [x0 / width, y0 / height, (x1 - x0) / width, (y1 - y0) / height],
        "confidence": item.score,
        "index": item.id,
        "box_xyxy_pixel": list(box),
        "descriptions": list(item.attributes or ()),
        "votes": [vote.source for vote in item.votes],
    }
    if runs is not None and mask_box is not None:
        left, top, right, bottom = mask_box
        crop = rle.decode(runs)[top:bottom, left:right]
        detection["mask"] = {"$binary": {"base64": _mask_text(crop), "subType": "00"}}
        summary.counts["masks"] += 1
    summary.counts["objects"] += 1
    return detection


def _mask_text(mask: Bool[np.ndarray, "h w"]) -> str:
    """The mask as a compressed .npy file in base64."""
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(mask), allow_pickle=False)
    return base64.b64encode(zlib.compress(stream.getvalue())).decode("ascii")
