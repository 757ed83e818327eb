"""What the original does not train on: short captions, small pictures and boxes. It is counted.

Source: dataset/gcg_datasets/GranDf_gcg_ds.py, dataset/region_datasets/*.py.
"""

from __future__ import annotations

from glamm_jax.data.sources.source_files import (
    SHORT_CAPTION,
    SMALL_BOX,
    SMALL_IMAGE,
    DefectLog,
    Fields,
    ImageFile,
    as_numbers,
    quoted,
)

MIN_WORDS, MIN_SIDE = 3, 32  # of a caption of Flickr30k; of a picture, in pixels


def is_short_caption(text: str, notes: DefectLog, where: str) -> bool:
    """Whether a caption has fewer than three words."""
    if len(text.split(" ")) >= MIN_WORDS:
        return False
    notes.add(SHORT_CAPTION, f"{where}: {quoted(text)}")
    return True


def is_small_image(picture: ImageFile, notes: DefectLog, where: str) -> bool:
    """Whether a side of a picture has fewer than 32 pixels."""
    if min(picture.height, picture.width) >= MIN_SIDE:
        return False
    notes.add(SMALL_IMAGE, f"{where}: {picture.height} x {picture.width}")
    return True


def is_small_box(annotation: Fields, notes: DefectLog, where: str) -> bool:
    """Whether an annotation has no area, a side below one pixel, or is marked to be ignored."""
    bounds, area = annotation.get("bbox"), as_numbers([annotation.get("area")], 1)
    numbers = as_numbers(bounds, 4)
    small = numbers is not None and (numbers[2] < 1 or numbers[3] < 1)
    if not small and (area is None or area[0] > 0) and not annotation.get("ignore"):
        return False
    notes.add(SMALL_BOX, f"{where}: {quoted(bounds)}, area {quoted(annotation.get('area'))}")
    return True
