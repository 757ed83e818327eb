"""Construction of a record from annotations, value by value, with a log of their defects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from glamm_jax.data.annotation_rules import annotation_problem
from glamm_jax.data.boxes import BoxError, check_boxes
from glamm_jax.data.record import Annotation, Link, ReadResult, Record, Region, Task
from glamm_jax.data.sources.dataset_files import ImageFile
from glamm_jax.data.sources.defects import (
    BAD_BOX,
    NO_GROUNDINGS,
    RESERVED_TOKEN,
    SIZE_MISMATCH,
    DefectLog,
    quoted,
)
from glamm_jax.data.sources.json_files import as_numbers, as_whole_number
from glamm_jax.data.sources.mask_annotations import MaskAnnotation, read_mask
from glamm_jax.data.sources.phrase_spans import PhraseSpans

MAX_COORDINATE = 1e6  # pixels
Box = tuple[float, float, float, float]


class RecordBuilder:
    """Collects regions and annotations of one image.

    Boxes and polygons are in pixels of the image that was annotated. If the source gives the size
    of that image and it differs from the size of this one, they are not used (`check_size`).

    Attributes:
        image: the file, and its size.
        log: for the defects of the annotations.
    """

    def __init__(self, image: ImageFile, log: DefectLog):
        self.image, self.log = image, log
        self._regions: list[Region] = []
        self._annotations: list[Annotation] = []
        self._same_size = True

    def check_size(self, height: Any, width: Any) -> None:
        """Compare the size of the image with the annotated one, where that is not None."""
        image = self.image
        size = (image.height, image.width)
        # A whole number may be written as "640" or 640.0.
        annotated = [as_whole_number(value) for value in (height, width)]
        self._same_size = all(
            value is None or number == actual
            for value, number, actual in zip((height, width), annotated, size, strict=True)
        )
        if not self._same_size:
            is_rotated = annotated == [image.width, image.height]
            hint = "; coordinates must refer to the upright image" if is_rotated else ""
            values = f"annotated at {quoted(height)} x {quoted(width)}"
            self.log.add(SIZE_MISMATCH, f"{values}, is {image.height} x {image.width}{hint}")

    def parse_box(self, value: Any, where: str, *, xywh: bool = False) -> Box | None:
        """Return a box in pixels that overlaps the image; None and a defect for anything else.

        A box may reach beyond the image (quirk 12: the original keeps such boxes as they are).

        Args:
            value: four numbers from a file.
            where: its place, for the defect.
            xywh: they are x0, y0, width, height; otherwise x0, y0, x1, y1.

        Returns:
            x0, y0, x1, y1.
        """
        numbers = as_numbers(value, 4)
        if numbers is None or max(map(abs, numbers)) > MAX_COORDINATE:
            self.log.add(BAD_BOX, f"{where}: {quoted(value)} is not a box")
            return None
        if not self._same_size:
            self.log.add(BAD_BOX, f"{where}: a box for an image of another size")
            return None
        x0, y0, x1, y1 = numbers
        box = (x0, y0, x0 + x1, y0 + y1) if xywh else (x0, y0, x1, y1)
        try:
            check_boxes(np.array([box], np.float64), self.image.height, self.image.width)
        except BoxError as error:
            self.log.add(BAD_BOX, f"{where}: {error}")
            return None
        return box

    def parse_mask(self, parts: Any, where: str) -> MaskAnnotation | None:
        """Return the mask of a segmentation; None and a defect where it cannot be read."""
        height, width = self.image.height, self.image.width
        return read_mask(parts, height, width, self.log, where, self._same_size)

    def add_region(self, box: Box | None, mask: MaskAnnotation | None) -> int | None:
        """Add a region with a box, a mask or both; returns its index, None if it has neither."""
        if box is None and mask is None:
            return None
        region = Region(box) if mask is None else Region(box, mask.mask, mask.overlap)
        self._regions.append(region)
        return len(self._regions) - 1

    def has_mask(self, region: int) -> bool:
        """Return whether a region has a mask; it may be empty."""
        return self._regions[region].mask is not None

    def region_box(self, region: int) -> Box | None:
        """Return the box of a region."""
        return self._regions[region].box_xyxy_pixel

    def add_annotation(
        self, task: Task, text: str, regions: Sequence[int] = (), where: str = ""
    ) -> None:
        """Add a text about regions, or about the complete image.

        Args:
            task: of the annotation.
            text: the caption, expression or class.
            regions: indices of the regions; none for the complete image.
            where: its place, for defects; default: the text itself.
        """
        links = tuple(Link(region) for region in regions)
        self._add_usable(Annotation(task, text, links), where or quoted(text))

    def add_grounded_caption(self, text: str, phrases: PhraseSpans, where: str) -> None:
        """Add a caption with the links of its phrases; without links it is a plain caption.

        Args:
            text: the caption.
            phrases: of the caption, with their regions.
            where: its place, for the defect of a caption without links.
        """
        links = phrases.links()
        if not links:
            self.log.add(NO_GROUNDINGS, where)
        self._add_usable(Annotation("gcg" if links else "caption", text, links), where)

    def add_conversation(self, turns: Sequence[str], where: str) -> None:
        """Add a conversation; the turns alternate and the user's is the first.

        Args:
            turns: questions and answers.
            where: its place, for defects.
        """
        self._add_usable(Annotation("vqa", turns=tuple(turns)), where)

    def _add_usable(self, annotation: Annotation, where: str) -> None:
        """Add an annotation; a defect instead if training would drop it."""
        problem = annotation_problem(annotation)
        if problem is None:
            self._annotations.append(annotation)
        else:
            self.log.add(RESERVED_TOKEN, f"{where}: {problem}")

    def build(self, image_id: str, source: str, split: str) -> ReadResult:
        """Return the record, or none if the image has no annotation, with all defects.

        Regions without an annotation are dropped.

        Args:
            image_id: name of the image in its dataset.
            source: name of the dataset.
            split: of the dataset.
        """
        defects = tuple(self.log.defects)
        if not self._annotations:
            return ReadResult(None, defects)
        used = sorted({link.region for item in self._annotations for link in item.links})
        new_index = {region: i for i, region in enumerate(used)}
        annotations = [
            replace(item, links=tuple(replace(x, region=new_index[x.region]) for x in item.links))
            for item in self._annotations
        ]
        data, height, width = self.image
        record = Record(
            data,
            image_id,
            source,
            split,
            height,
            width,
            regions=tuple(self._regions[region] for region in used),
            annotations=tuple(annotations),
        )
        return ReadResult(record, defects)
