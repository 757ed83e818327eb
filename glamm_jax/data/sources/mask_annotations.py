"""Segmentations as they come, polygons and run lengths in lists, as one mask in run lengths.

The original adds the parts of a segmentation up, so pixels of two parts count 2 (trap 22). Here the
union is the mask, and what is covered twice is kept beside it. All of it happens in run lengths: an
image of SA-1B has hundreds of masks of millions of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from glamm_jax.data import rle
from glamm_jax.data.sources.source_files import (
    BAD_MASK,
    EMPTY_MASK,
    MASK_SIZE,
    MISSING_MASK,
    OVERLAPPING_PARTS,
    DefectLog,
    as_numbers,
    quoted,
)

MIN_POLYGON = 6  # numbers: three points
# The rasteriser walks along every edge, also outside of the picture.
MAX_OVERREACH = 4


# pycocotools' form: {"size": [h, w], "counts": compressed}. Its stubs know less than it takes.
Runs = Any


class MaskAnnotation(NamedTuple):
    """COCO's compressed run lengths of a mask and of the pixels that its parts cover twice."""

    mask: bytes
    overlap: bytes | None = None


def read_mask(
    parts: Any, height: int, width: int, notes: DefectLog, where: str, polygons_fit: bool = True
) -> MaskAnnotation | None:
    """The mask of a segmentation in a picture of this size, or None and a defect.

    parts: run lengths, or a list of run lengths and polygons [x, y, x, y, ...] in pixels. An empty
    list is an empty mask, as in the original. A part that cannot be read costs itself only.
    polygons_fit: False where the annotation was made on a picture of another size.
    """
    if parts is None:
        notes.add(MISSING_MASK, where)
        return None
    listed = parts if isinstance(parts, list) else [parts]
    found = []
    for i, part in enumerate(listed):
        place = f"{where}, part {i}" if len(listed) > 1 else where
        runs = _runs(part, height, width, notes, place, polygons_fit)
        found += [] if runs is None else [runs]
    if listed and not found:
        return None
    return _combined(found, height, width, notes, where)


def read_levels(folder: Path, name: str, notes: DefectLog, where: str) -> np.ndarray | None:
    """Whole numbers [height, width] of a picture of one channel, or None and a defect.

    A palette's numbers are its entries', not their colours.
    """
    try:
        with Image.open(folder / name) as picture:
            levels = np.asarray(picture)
    except FileNotFoundError:
        notes.add(MISSING_MASK, f"{where}: no file {quoted(name)}")
    except Exception as error:  # decoders raise many kinds
        notes.add(BAD_MASK, f"{where}: {quoted(name)}: {error!r}")
    else:
        if levels.ndim == 2 and levels.dtype.kind in "bui":
            return levels
        what = "fractions; whole numbers are" if levels.ndim == 2 else "colours; one channel is"
        notes.add(BAD_MASK, f"{where}: {quoted(name)} has {what} expected")
    return None


def _runs(
    part: Any, height: int, width: int, notes: DefectLog, where: str, polygons_fit: bool
) -> Runs | None:
    """Run lengths of one part, in pycocotools' form."""
    if isinstance(part, Mapping):
        try:
            runs = rle.compress(part)
        except rle.MaskError as error:
            notes.add(BAD_MASK, f"{where}: {error}")
            return None
        if runs["size"] != [height, width]:
            size = f"{runs['size'][0]} x {runs['size'][1]}"
            notes.add(MASK_SIZE, f"{where}: {size} in a picture of {height} x {width}")
            return None
        return {"size": runs["size"], "counts": runs["counts"].encode("ascii")}
    numbers = as_numbers(part, len(part)) if isinstance(part, list) else None
    problem = _polygon_problem(numbers, max(height, width), polygons_fit)
    if problem or numbers is None:
        notes.add(BAD_MASK, f"{where}: {problem}: {quoted(part)}")
        return None
    polygons: Any = [list(numbers)]
    return coco.frPyObjects(polygons, height, width)[0]


def _polygon_problem(numbers: tuple[float, ...] | None, side: int, fits: bool) -> str | None:
    """Differs: pycocotools takes two points for a box, and the odd number away."""
    if numbers is None:
        return "neither run lengths nor a polygon of finite numbers"
    if len(numbers) < MIN_POLYGON or len(numbers) % 2:
        return f"a polygon of {len(numbers)} numbers"
    if max(map(abs, numbers)) > MAX_OVERREACH * side:
        return "a polygon far outside of the picture"
    return None if fits else "a polygon for a picture of another size"


def _combined(
    parts: list[Runs], height: int, width: int, notes: DefectLog, where: str
) -> MaskAnnotation:
    """Union of all parts, and what more than one of them covers."""
    nothing: Runs = _nothing(height, width)
    union: Runs = parts[0] if parts else nothing
    twice: Runs = nothing
    thrice: Runs = nothing
    for part in parts[1:]:
        thrice = coco.merge([thrice, coco.merge([twice, part], intersect=True)])
        twice = coco.merge([twice, coco.merge([union, part], intersect=True)])
        union = coco.merge([union, part])
    if not coco.area(union):
        notes.add(EMPTY_MASK, where)
    if not coco.area(twice):
        return MaskAnnotation(union["counts"])
    more = ", of which three or more cover some" if coco.area(thrice) else ""
    notes.add(OVERLAPPING_PARTS, f"{where}: {coco.area(twice)} pixels lie in two parts{more}")
    return MaskAnnotation(union["counts"], twice["counts"])


def _nothing(height: int, width: int) -> Runs:
    """Run lengths of an empty mask."""
    runs = rle.compress({"size": [height, width], "counts": [height * width]})
    return {"size": [height, width], "counts": runs["counts"].encode("ascii")}
