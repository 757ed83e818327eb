"""A record in the making: regions get numbers, annotations refer to them, defects are noted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from glamm_jax.data.boxes import BoxError, check_boxes
from glamm_jax.data.record import Annotation, Link, ReadResult, Record, Region, Task
from glamm_jax.data.sources.mask_annotations import MaskAnnotation, read_mask
from glamm_jax.data.sources.phrase_spans import Phrases
from glamm_jax.data.sources.source_files import (
    BAD_BOX,
    NO_GROUNDINGS,
    SIZE_MISMATCH,
    DefectLog,
    ImageFile,
    as_numbers,
    quoted,
)

MAX_COORDINATE = 1e6  # pixels
Box = tuple[float, float, float, float]


class RecordBuilder:
    """What is known of one picture so far.

    Boxes and polygons count pixels of the picture that was annotated. Where the source says how
    large that was, and it was not as large as this one, they are not used (`check_size`).
    """

    def __init__(self, picture: ImageFile, notes: DefectLog):
        self.picture, self.notes = picture, notes
        self._regions: list[Region] = []
        self._annotations: list[Annotation] = []
        self._same_size = True

    def check_size(self, height: Any, width: Any) -> None:
        """Compare the picture's size with what its annotations say; None says nothing."""
        picture = self.picture
        told = [x for x in ((height, picture.height), (width, picture.width)) if x[0] is not None]
        self._same_size = all(said == true for said, true in told)
        if not self._same_size:
            size = f"annotated at {quoted(height)} x {quoted(width)}"
            self.notes.add(SIZE_MISMATCH, f"{size}, is {picture.height} x {picture.width}")

    def box(self, value: Any, where: str, *, xywh: bool = False) -> Box | None:
        """A box that marks something in the picture, x0, y0, x1, y1; None and a defect otherwise.

        It may reach beyond the picture (trap 12).
        """
        numbers = as_numbers(value, 4)
        if numbers is None or max(map(abs, numbers)) > MAX_COORDINATE:
            self.notes.add(BAD_BOX, f"{where}: {quoted(value)} is no box")
            return None
        if not self._same_size:
            self.notes.add(BAD_BOX, f"{where}: a box for a picture of another size")
            return None
        x0, y0, x1, y1 = numbers
        box = (x0, y0, x0 + x1, y0 + y1) if xywh else (x0, y0, x1, y1)
        try:
            check_boxes(np.array([box], np.float64), self.picture.height, self.picture.width)
        except BoxError as error:
            self.notes.add(BAD_BOX, f"{where}: {error}")
            return None
        return box

    def mask(self, parts: Any, where: str) -> MaskAnnotation | None:
        """The mask of a segmentation, or None and a defect."""
        height, width = self.picture.height, self.picture.width
        return read_mask(parts, height, width, self.notes, where, self._same_size)

    def region(self, box: Box | None, shape: MaskAnnotation | None) -> int | None:
        """The number of a new region; None where there is nothing to make it of."""
        if box is None and shape is None:
            return None
        mask, overlap = (shape.mask, shape.overlap) if shape else (None, None)
        self._regions.append(Region(box, mask, overlap))
        return len(self._regions) - 1

    def has_mask(self, region: int) -> bool:
        """Whether a region has a mask, empty or not."""
        return self._regions[region].mask is not None

    def box_of(self, region: int) -> Box | None:
        """A region's box."""
        return self._regions[region].box_xyxy_pixel

    def annotate(self, task: Task, text: str, regions: Sequence[int] = ()) -> None:
        """Say something about whole regions, or about the picture."""
        links = tuple(Link(region) for region in regions)
        self._annotations.append(Annotation(task, text, links))

    def annotate_phrases(self, text: str, phrases: Phrases, where: str) -> None:
        """A caption with what could be grounded of it; without any of that it is a plain one."""
        links = phrases.links()
        if not links:
            self.notes.add(NO_GROUNDINGS, where)
        self._annotations.append(Annotation("gcg" if links else "caption", text, links))

    def annotate_turns(self, turns: Sequence[str]) -> None:
        """A conversation about the picture, the user first."""
        self._annotations.append(Annotation("vqa", turns=tuple(turns)))

    def result(self, image_id: str, source: str, split: str) -> ReadResult:
        """The record, or none where nothing is said about the picture.

        Regions that no annotation speaks of are left out.
        """
        defects = tuple(self.notes.defects)
        if not self._annotations:
            return ReadResult(None, defects)
        used = sorted({link.region for item in self._annotations for link in item.links})
        number = {region: i for i, region in enumerate(used)}
        annotations = [
            replace(item, links=tuple(replace(x, region=number[x.region]) for x in item.links))
            for item in self._annotations
        ]
        data, height, width = self.picture
        said = tuple(self._regions[i] for i in used), tuple(annotations)
        return ReadResult(Record(data, image_id, source, split, height, width, *said), defects)
