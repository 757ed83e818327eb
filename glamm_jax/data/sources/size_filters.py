"""Filters of the original: it does not train on short captions, small images and small boxes.

A filter returns True, and adds a defect, where something is left out.

Source: dataset/gcg_datasets/GranDf_gcg_ds.py, dataset/region_datasets/*.py.
"""

from __future__ import annotations

from glamm_jax.data.sources.dataset_files import ImageFile
from glamm_jax.data.sources.defects import (
    SHORT_CAPTION,
    SMALL_BOX,
    SMALL_IMAGE,
    DefectLog,
    quoted,
)
from glamm_jax.data.sources.json_files import Fields, as_numbers, is_set

MIN_WORDS = 3  # of a caption of Flickr30k
MIN_SIDE = 32  # of an image, in pixels


def is_short_caption(text: str, log: DefectLog, where: str) -> bool:
    """Return whether a caption has fewer than three words.

    Args:
        text: the caption.
        log: for the defect.
        where: place of the caption, for the defect.
    """
    if len(text.split(" ")) >= MIN_WORDS:
        return False
    log.add(SHORT_CAPTION, f"{where}: {quoted(text)}")
    return True


def is_small_image(image: ImageFile, log: DefectLog, where: str) -> bool:
    """Return whether a side of an image is shorter than 32 pixels.

    Args:
        image: the image.
        log: for the defect.
        where: place of the annotation of the image, for the defect.
    """
    if min(image.height, image.width) >= MIN_SIDE:
        return False
    log.add(SMALL_IMAGE, f"{where}: {image.height} x {image.width}")
    return True


def is_small_box(annotation: Fields, log: DefectLog, where: str) -> bool:
    """Return whether an annotation has no area, a side below one pixel, or an `ignore` flag.

    Args:
        annotation: in COCO's layout.
        log: for the defect.
        where: place of the annotation, for the defect.
    """
    bbox, area = annotation.get("bbox"), as_numbers([annotation.get("area")], 1)
    xywh = as_numbers(bbox, 4)
    small = xywh is not None and (xywh[2] < 1 or xywh[3] < 1)
    if not small and (area is None or area[0] > 0) and not is_set(annotation.get("ignore")):
        return False
    log.add(SMALL_BOX, f"{where}: {quoted(bbox)}, area {quoted(annotation.get('area'))}")
    return True
