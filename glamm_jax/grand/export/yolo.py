"""Labels for YOLO, as Ultralytics reads them.

    OUT/data.yaml                       folders of the splits, names of the classes
    OUT/classes.txt                     one name in each line
    OUT/labels/train/sa_1.txt           class and box, or class and polygon, one object in each line
    OUT/images/train/sa_1.jpg           where images are placed
    OUT/export.json

The same for "val". Classes are sorted by name and numbered from 0. Coordinates are divided by the
width and height of the image. The label file of an image has its stem, so of images that differ in
the extension only, the second is renamed: a.jpg and a.png become a.jpg and a_png.png. The image of
an empty label file is background.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

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
    REPEATED_NAME,
    TRAIN,
    VALIDATION,
    AnnotatedImage,
    ExportItem,
    ImagePlacement,
    image_split,
    place_image,
)
from glamm_jax.grand.export.output import export_folder, json_text
from glamm_jax.grand.export.polygons import object_polygon
from glamm_jax.grand.export.spill import ClassNames, LineFile
from glamm_jax.grand.export.summary import ExportSummary
from glamm_jax.grand.record import GrandObject

FORMAT = "yolo"
NO_MASK = "objects: no mask"
DIGITS = 6


def export_yolo(
    items: Iterable[ExportItem],
    out: Path,
    *,
    filters: ExportFilters = NO_FILTERS,
    kind: Literal["boxes", "polygons"] = "boxes",
    tolerance: float = 1.0,
    validation_share: float = 0.05,
    floating: bool = False,
    images: ImagePlacement = "copy",
    overwrite: bool = False,
    on_image: Callable[[], None] = no_callback,
) -> ExportSummary:
    """Write labels for detection or segmentation.

    Args:
        items: images and annotations, in the order of the image ids.
        out: the folder to create.
        filters: what to leave out.
        kind: with polygons, objects without a mask are left out.
        tolerance: of the polygons, in pixels.
        validation_share: of the images.
        floating: write floating objects, too.
        images: whether to copy or link the image files; with "none", an image whose stem another
            one has is left out.
        overwrite: replace an earlier export.
        on_image: called after every image.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    options = {
        "kind": kind,
        "tolerance": tolerance,
        "validation_share": validation_share,
        "floating": floating,
        "images": images,
    }
    summary = ExportSummary(FORMAT, options, filters.to_json())
    with export_folder(out, summary, overwrite) as folder, LineFile(folder) as pending:
        for split in (TRAIN, VALIDATION):
            (folder / "images" / split).mkdir(parents=True)
            (folder / "labels" / split).mkdir(parents=True)
        classes = ClassNames()
        for image, record in filter_items(items, filters, summary, on_image):
            split = image_split(image, validation_share)
            name = _free_name(folder, split, image.file_name, images != "none")
            if name is None:
                summary.dropped[REPEATED_NAME] += 1
                continue
            if not place_image(image, folder / "images" / split / name, images, summary.dropped):
                continue
            label_file = _label_path(folder, split, name)
            label_file.touch()  # so that no other image uses the name
            lines = []
            for item in (*record.objects, *(record.floating_objects if floating else ())):
                label = object_name(item)
                if label is None:
                    summary.dropped[NO_LABEL] += 1
                    continue
                shape = _box(image, item) if kind == "boxes" else _polygon(image, item, tolerance)
                if isinstance(shape, str):
                    summary.dropped[shape] += 1
                else:
                    numbers = " ".join(f"{number:.{DIGITS}f}" for number in shape)
                    lines.append([classes.number(label), numbers])
            pending.add(json_text([f"{split}/{label_file.name}", lines]))
            summary.num_images += 1
            summary.counts["objects"] += len(lines)
        numbers_of_classes = classes.final_numbers()
        for line in pending.lines():
            name, labels = json.loads(line)
            text = "".join(f"{numbers_of_classes[i]} {numbers}\n" for i, numbers in labels)
            (folder / "labels" / name).write_text(text, encoding="ascii")
        _write_classes(folder, classes.names(), validation_share > 0)
    return summary


def _label_path(folder: Path, split: str, image_name: str) -> Path:
    stem = image_name.rpartition(".")[0] or image_name
    return folder / "labels" / split / f"{stem}.txt"


def _free_name(folder: Path, split: str, name: str, may_rename: bool) -> str | None:
    """A name of the image whose label file is not in use; None if there is none."""
    stem, point, extension = name.rpartition(".")
    other = f"{stem}_{extension}.{extension}" if stem and point else f"{name}_2"
    for candidate in (name, other) if may_rename else (name,):
        if not _label_path(folder, split, candidate).exists():
            return candidate
    return None


def _box(image: AnnotatedImage, item: GrandObject) -> list[float] | str:
    """Centre and size, or why there is no box."""
    box = clipped_box(item.box, image.height, image.width)
    if box is None:
        return NO_BOX
    x0, y0, x1, y1 = box
    width, height = image.width, image.height
    return [(x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height]


def _polygon(image: AnnotatedImage, item: GrandObject, tolerance: float) -> list[float] | str:
    """The points of a polygon, or why there is none."""
    runs = valid_mask(item, image.height, image.width)
    if runs is None:
        return NO_MASK if item.mask is None else BAD_MASK
    points = object_polygon(rle.decode(runs), tolerance)
    if points is None:
        return NO_MASK
    return (points / [image.width, image.height]).reshape(-1).tolist()


def _write_classes(folder: Path, names: list[str], has_validation: bool) -> None:
    # YAML reads texts in JSON's quotes.
    rows = [f"  {i}: {json.dumps(name, ensure_ascii=False)}" for i, name in enumerate(names)]
    validation = VALIDATION if has_validation else TRAIN
    head = [f"train: images/{TRAIN}", f"val: images/{validation}", f"nc: {len(names)}"]
    names_field = ["names:", *rows] if rows else ["names: {}"]
    text = "\n".join([*head, *names_field]) + "\n"
    (folder / "data.yaml").write_text(text, "utf-8", "replace")
    (folder / "classes.txt").write_text("".join(f"{n}\n" for n in names), "utf-8", "replace")
