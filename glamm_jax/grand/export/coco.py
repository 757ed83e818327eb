"""COCO's JSON files: instances, captions and referring expressions.

    OUT/annotations/instances_train.json    images, categories, annotations with boxes and masks
    OUT/annotations/captions_train.json     the short captions, and the dense ones if wanted
    OUT/annotations/referring_train.json    instances, and "refs" with the fields of RefCOCO
    OUT/images/train/NAME                   where images are placed
    OUT/export.json

The same for "val". Categories are sorted by name and numbered from 1, the same in all files.
Images, annotations and sentences are numbered from 1 in the order of the images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from glamm_jax.data import rle
from glamm_jax.grand.export.filters import (
    NO_FILTERS,
    ExportFilters,
    filter_items,
    no_callback,
    object_name,
)
from glamm_jax.grand.export.images import (
    TRAIN,
    VALIDATION,
    AnnotatedImage,
    ExportItem,
    ImagePlacement,
    image_split,
    place_image,
)
from glamm_jax.grand.export.output import export_folder, json_text
from glamm_jax.grand.export.record_texts import expressions, short_texts
from glamm_jax.grand.export.spill import ClassNames, LineFile, write_json_lists
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import Box, GrandObject, GrandRecord

FORMAT = "coco"
NO_LABEL, NO_BOX, BAD_MASK = "objects: no label", "objects: box outside", "masks: damaged"


def export_coco(
    items: Iterable[ExportItem],
    out: Path,
    *,
    filters: ExportFilters = NO_FILTERS,
    validation_share: float = 0.0,
    floating: bool = False,
    dense_captions: bool = False,
    images: ImagePlacement = "none",
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write instances, captions and referring expressions.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        filters: what to leave out.
        validation_share: of the images; 0: there is no split "val".
        floating: write floating objects, too.
        dense_captions: write dense captions, too.
        images: whether to copy or link the image files.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    options = {
        "images": images,
        "validation_share": validation_share,
        "floating": floating,
        "dense_captions": dense_captions,
    }
    summary = ExportSummary(FORMAT, options, filters.to_json())
    with export_folder(out, summary, overwrite) as folder, ExitStack() as stack:
        categories = ClassNames()
        names = (TRAIN, VALIDATION) if validation_share > 0 else (TRAIN,)
        splits = {
            name: stack.enter_context(_SplitLists(folder, name, categories, summary))
            for name in names
        }
        for image, record in filter_items(items, filters, summary, on_image):
            split = image_split(image, validation_share)
            if not place_image(
                image, folder / "images" / split / image.file_name, images, summary.dropped
            ):
                continue
            splits[split].add(image, record, floating, dense_captions)
            summary.num_images += 1
        (folder / "annotations").mkdir()
        for lists in splits.values():
            lists.write(folder / "annotations")
    return summary


class _SplitLists:
    """The lists of the three files of a split."""

    def __init__(self, folder: Path, split: str, categories: ClassNames, summary: ExportSummary):
        self._split, self._categories, self._summary = split, categories, summary
        self._images, self._instances, self._captions, self._refs = (
            LineFile(folder) for _ in range(4)
        )
        self._num_sentences = 0

    def __enter__(self) -> _SplitLists:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self._images, self._instances, self._captions, self._refs):
            file.close()

    def add(self, image: AnnotatedImage, record: GrandRecord, floating: bool, dense: bool) -> None:
        """Add an image with its annotations."""
        image_id = self._images.num_lines + 1
        size = {"height": image.height, "width": image.width}
        self._images.add(json_text({"id": image_id, "file_name": image.file_name, **size}))
        for item in (*record.objects, *(record.floating_objects if floating else ())):
            self._add_object(image, image_id, item)
        texts = short_texts(record)
        if dense and record.dense_caption is not None:
            texts.append(record.dense_caption.caption.strip())
        for text in texts:
            number = self._captions.num_lines + 1
            self._captions.add(json_text({"id": number, "image_id": image_id, "caption": text}))
            self._summary.counts["captions"] += 1

    def _add_object(self, image: AnnotatedImage, image_id: int, item: GrandObject) -> None:
        dropped, counts = self._summary.dropped, self._summary.counts
        name = object_name(item)
        box = clipped_box(item.box, image.height, image.width)
        if name is None or box is None:
            dropped[NO_LABEL if name is None else NO_BOX] += 1
            return
        x0, y0, x1, y1 = box
        category, number = self._categories.number(name), self._instances.num_lines + 1
        mask = valid_mask(item, image.height, image.width)
        if mask is None:
            dropped[BAD_MASK] += item.mask is not None
            area = round((x1 - x0) * (y1 - y0), 4)
        else:
            area = rle.area(mask)
            counts["masks"] += 1
        fields = {
            "id": number,
            "image_id": image_id,
            "bbox": [x0, y0, round(x1 - x0, 4), round(y1 - y0, 4)],
            "area": area,
            "iscrowd": 0,
            "segmentation": mask if mask is not None else [],
        }
        if item.score is not None:
            fields["score"] = item.score
        self._instances.add(f"{category} {json_text(fields)}")
        counts["objects"] += 1
        texts = expressions(item)
        if texts and mask is not None:
            self._add_ref(category, image, image_id, number, texts)

    def _add_ref(
        self,
        category: int,
        image: AnnotatedImage,
        image_id: int,
        annotation: int,
        texts: Iterable[str],
    ) -> None:
        sentences = []
        for text in texts:
            self._num_sentences += 1
            sentences.append(
                {
                    "sent_id": self._num_sentences,
                    "raw": text,
                    "sent": text.lower(),
                    "tokens": text.lower().split(),
                }
            )
        fields = {
            "ref_id": self._refs.num_lines + 1,
            "ann_id": annotation,
            "image_id": image_id,
            "file_name": image.file_name,
            "split": self._split,
            "sent_ids": [sentence["sent_id"] for sentence in sentences],
            "sentences": sentences,
        }
        self._refs.add(f"{category} {json_text(fields)}")
        self._summary.counts["referring expressions"] += len(sentences)

    def write(self, folder: Path) -> None:
        """Write the three files, when all categories of all splits are known."""
        numbers = [number + 1 for number in self._categories.final_numbers()]
        categories = [
            {"id": i + 1, "name": name, "supercategory": ""}
            for i, name in enumerate(self._categories.names())
        ]

        def numbered(file: LineFile) -> Iterator[str]:
            for line in file.lines():
                category, _, fields = line.partition(" ")
                yield f'{{"category_id":{numbers[int(category)]},{fields[1:]}'

        def path(name: str) -> Path:
            return folder / f"{name}_{self._split}.json"

        info = {"info": {"description": "exported by glamm-jax annotate"}, "licenses": []}
        with_categories = {**info, "categories": categories}
        images, annotations = "images", "annotations"
        write_json_lists(
            path("instances"),
            with_categories,
            {images: self._images.lines(), annotations: numbered(self._instances)},
        )
        write_json_lists(
            path("captions"),
            info,
            {images: self._images.lines(), annotations: self._captions.lines()},
        )
        write_json_lists(
            path("referring"),
            with_categories,
            {
                images: self._images.lines(),
                annotations: numbered(self._instances),
                "refs": numbered(self._refs),
            },
        )


def clipped_box(box: Box, height: int, width: int) -> Box | None:
    """Return the part of a box inside of the image; None if there is none.

    Args:
        box: x0 y0 x1 y1 in pixels.
        height: of the image.
        width: of the image.
    """
    if not all(map(math.isfinite, box)):
        return None
    x0, y0, x1, y1 = box
    x0, x1 = max(0.0, x0), min(float(width), x1)
    y0, y1 = max(0.0, y0), min(float(height), y1)
    return (x0, y0, x1, y1) if x1 > x0 and y1 > y0 else None


def valid_mask(item: GrandObject, height: int, width: int) -> dict[str, Any] | None:
    """Return the compressed run lengths of the mask of an object.

    Args:
        item: the object.
        height: of the image.
        width: of the image.

    Returns:
        None if the object has no mask, or a damaged one, or one of another size.
    """
    if item.mask is None:
        return None
    try:
        runs = rle.compress(item.mask)
    except rle.MaskError:
        return None
    return runs if runs["size"] == [height, width] else None
