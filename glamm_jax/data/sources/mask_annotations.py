"""Segmentations, lists of polygons and run lengths, as one mask in run lengths.

The original adds the parts of a segmentation, so pixels of two parts count 2 (quirk 22). Here the
mask is the union, and the pixels that are covered twice are kept beside it. Everything is computed
on run lengths: an image of SA-1B has hundreds of masks of millions of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as coco

from glamm_jax.data import rle
from glamm_jax.data.sources.defects import (
    BAD_MASK,
    EMPTY_MASK,
    MASK_SIZE,
    MISSING_MASK,
    OVERLAPPING_PARTS,
    DefectLog,
    quoted,
)
from glamm_jax.data.sources.json_files import as_numbers, as_whole_number

MIN_POLYGON = 6  # numbers: three points
# A polygon may reach this many image sides from the origin. pycocotools walks along every edge,
# also outside of the image, so far points would take a long time.
MAX_OVERREACH = 4

# Pixels along all edges of a polygon. pycocotools needs some twenty bytes for each; a polygon of
# very many long edges would exhaust the memory, and then end the process.
MAX_PERIMETER = 1 << 21

# A mask as pycocotools takes it: {"size": [h, w], "counts": compressed}. Its stubs are narrower.
Runs = Any


class MaskAnnotation(NamedTuple):
    """A mask in COCO's compressed run lengths.

    Attributes:
        mask: the union of all parts.
        overlap: the pixels of two or more parts; None if there are none.
    """

    mask: bytes
    overlap: bytes | None = None


def read_mask(
    parts: Any, height: int, width: int, log: DefectLog, where: str, polygons_fit: bool = True
) -> MaskAnnotation | None:
    """Return the mask of a segmentation; None and a defect where it cannot be read.

    A part that cannot be read is left out of the mask.

    Args:
        parts: run lengths, or a list of run lengths and polygons [x, y, x, y, ...] in pixels. An
            empty list is an empty mask, as in the original.
        height: of the image; run lengths must have this size.
        width: of the image.
        log: for defects.
        where: the place of the segmentation, for defects.
        polygons_fit: False if the annotated image had another size; polygons are not used then.
    """
    if parts is None:
        log.add(MISSING_MASK, where)
        return None
    listed = parts if isinstance(parts, list) else [parts]
    masks = []
    for i, part in enumerate(listed):
        place = f"{where}, part {i}" if len(listed) > 1 else where
        runs = _read_part(part, height, width, log, place, polygons_fit)
        masks += [] if runs is None else [runs]
    if listed and not masks:
        return None
    return _merge_parts(masks, height, width, log, where)


def _read_part(
    part: Any, height: int, width: int, log: DefectLog, where: str, polygons_fit: bool
) -> Runs | None:
    """The mask of one part; None and a defect where it cannot be read."""
    if isinstance(part, Mapping):
        size = part.get("size")
        if isinstance(size, list | tuple):  # numbers may be written as texts
            numbers = [as_whole_number(x) for x in size]
            part = {**part, "size": list(size) if None in numbers else numbers}
        try:
            runs = rle.compress(part)
        except rle.MaskError as error:
            counts = part.get("counts")
            is_repr = isinstance(counts, str) and counts[:2] in ("b'", 'b"')
            hint = "; the counts are bytes printed by Python: write counts.decode()"
            log.add(BAD_MASK, f"{where}: {error}{hint * is_repr}")
            return None
        if runs["size"] != [height, width]:
            size = f"{runs['size'][0]} x {runs['size'][1]}"
            is_swapped = runs["size"] == [width, height]
            hint = "; size is [height, width] of the upright image" * is_swapped
            log.add(MASK_SIZE, f"{where}: {size} in an image of {height} x {width}{hint}")
            return None
        return {"size": runs["size"], "counts": runs["counts"].encode("ascii")}
    numbers = as_numbers(part, len(part)) if isinstance(part, list) else None
    problem = _polygon_problem(numbers, max(height, width), polygons_fit)
    if problem or numbers is None:
        log.add(BAD_MASK, f"{where}: {problem}: {quoted(part)}")
        return None
    polygons: Any = [list(numbers)]
    return coco.frPyObjects(polygons, height, width)[0]


def _polygon_problem(numbers: tuple[float, ...] | None, side: int, fits: bool) -> str | None:
    """What is wrong with a polygon.

    Differs: pycocotools reads two points as a box, and drops the last of an odd count of numbers.
    """
    if numbers is None:
        return "neither run lengths nor a polygon of finite numbers"
    if len(numbers) < MIN_POLYGON or len(numbers) % 2:
        return f"a polygon of {len(numbers)} numbers"
    if max(map(abs, numbers)) > MAX_OVERREACH * side:
        return "a polygon far outside of the image"
    points = np.array(numbers).reshape(-1, 2)
    if np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum() > MAX_PERIMETER:
        return "a polygon whose edges are longer than those of any object"
    return None if fits else "a polygon for an image of another size"


def _merge_parts(
    parts: list[Runs], height: int, width: int, log: DefectLog, where: str
) -> MaskAnnotation:
    """The union of all parts, and the pixels that more than one of them covers."""
    empty_runs = rle.compress({"size": [height, width], "counts": [height * width]})
    empty: Runs = {"size": [height, width], "counts": empty_runs["counts"].encode("ascii")}
    union: Runs = parts[0] if parts else empty
    twice: Runs = empty
    thrice: Runs = empty
    for part in parts[1:]:
        thrice = coco.merge([thrice, coco.merge([twice, part], intersect=True)])
        twice = coco.merge([twice, coco.merge([union, part], intersect=True)])
        union = coco.merge([union, part])
    if not coco.area(union):
        log.add(EMPTY_MASK, where)
    if not coco.area(twice):
        return MaskAnnotation(union["counts"])
    more = ", some of them in three or more" if coco.area(thrice) else ""
    log.add(OVERLAPPING_PARTS, f"{where}: {coco.area(twice)} pixels are in two parts{more}")
    return MaskAnnotation(union["counts"], twice["counts"])
