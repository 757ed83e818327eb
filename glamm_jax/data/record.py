"""The record: one image as stored on disk, and all annotations of it.

Every dataset is converted to records once, whatever its layout; examples of all tasks are sampled
from them in training (`glamm_jax.data.conversation_sampler`). Records contain no prompts and no
tokens.

    annotations = (
        Annotation("gcg", "A dog chases a ball.", links=(Link(0, 0, 5), Link(1, 13, 19))),
        Annotation("referring", "the brown dog", links=(Link(0),)),
    )
    Record(jpeg, "dog", "photos", "train", 480, 640, regions=(dog, ball), annotations=annotations)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

from glamm_jax.errors import GLaMMError

Task = Literal["gcg", "referring", "semantic", "region", "caption", "vqa"]
TASKS: tuple[Task, ...] = get_args(Task)


class RecordError(GLaMMError):
    """A record is inconsistent, or cannot be read. Names the record and the problem."""


@dataclass(frozen=True)
class Region:
    """A part of the image: a box, a mask, or both.

    Attributes:
        box_xyxy_pixel: x0, y0, x1, y1 in pixels, as annotated; it may reach beyond the image.
        mask: COCO's compressed run lengths at the size of the image; the union of all polygons.
        overlap: the same, of the pixels that two or more polygons cover; None if there are none.
            The original counts these pixels as 2 (quirk 22).
    """

    box_xyxy_pixel: tuple[float, float, float, float] | None = None
    mask: bytes | None = None
    overlap: bytes | None = None


@dataclass(frozen=True)
class Link:
    """A reference from a text to a region, for the characters [start, end) of the text.

    A start and end of -1 are the complete text. The masks of links with the same span belong
    together.
    """

    region: int
    start: int = -1
    end: int = -1


@dataclass(frozen=True)
class Annotation:
    """One annotation of the image, for one task.

    Attributes:
        task: decides what the other fields hold.
            gcg: a caption whose phrases are linked to regions with masks.
            referring: an expression, linked to the regions that it refers to.
            semantic: the name of a class, linked to its region.
            region: a caption of the box of a region.
            caption: a text without regions.
            vqa: a conversation in `turns`.
        text: empty for vqa.
        links: regions of the text or of its phrases.
        turns: they alternate, the user's first; empty for the other tasks.
    """

    task: Task
    text: str = ""
    links: tuple[Link, ...] = ()
    turns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """An image and its annotations.

    Attributes:
        image: the bytes of the image file.
        image_id: name of the image in its dataset.
        source: name of the dataset.
        split: of the dataset.
        height: of the upright image, in pixels.
        width: of the upright image, in pixels.
        regions: parts of the image, referred to by their index.
        annotations: of all tasks.
    """

    image: bytes
    image_id: str
    source: str
    split: str
    height: int
    width: int
    regions: tuple[Region, ...] = ()
    annotations: tuple[Annotation, ...] = ()


class Defect(NamedTuple):
    """A part of a dataset that could not be converted as it is.

    Attributes:
        kind: the same for all defects of this kind: "null grounding", "missing image".
        where: file, record and field, and what was there.
    """

    kind: str
    where: str


class ReadResult(NamedTuple):
    """What a source reads under a key: a record or None, and its defects."""

    record: Record | None
    defects: tuple[Defect, ...] = ()


@runtime_checkable
class DatasetSource(Protocol):
    """A dataset on disk. It is opened anew in every process; `read` never raises for bad data."""

    @property
    def name(self) -> str:
        """The name of the dataset, which becomes `Record.source`."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """One key for each image, in an order that is the same in every process."""
        ...

    def read(self, key: str) -> ReadResult:
        """Read the record of a key."""
        ...


def check_record(record: Record) -> None:
    """Check that the parts of a record are consistent.

    Raises:
        RecordError: they are not; names the record and lists all problems.
    """
    problems = []
    if record.height < 1 or record.width < 1:
        problems.append(f"size {record.height} x {record.width}")
    for i, region in enumerate(record.regions):
        if region.box_xyxy_pixel is None and region.mask is None:
            problems.append(f"region {i} has neither box nor mask")
    for i, annotation in enumerate(record.annotations):
        problems += [f"annotation {i}: {text}" for text in _annotation_problems(annotation, record)]
    if problems:
        raise RecordError(f"{record.source} {record.image_id}: {'; '.join(problems)}")


def _annotation_problems(annotation: Annotation, record: Record) -> list[str]:
    problems = []
    if annotation.task not in TASKS:
        problems.append(f"no task {annotation.task!r}")
    if annotation.task == "vqa":
        if not annotation.turns or len(annotation.turns) % 2:
            problems.append(f"{len(annotation.turns)} turns")
    elif not annotation.text:
        problems.append("empty text")
    for link in annotation.links:
        if not 0 <= link.region < len(record.regions):
            problems.append(f"link to region {link.region} of {len(record.regions)}")
        elif annotation.task == "gcg" and record.regions[link.region].mask is None:
            problems.append(f"region {link.region} of a grounded caption has no mask")
        is_complete_text = (link.start, link.end) == (-1, -1)
        if not is_complete_text and not 0 <= link.start < link.end <= len(annotation.text):
            problems.append(f"span {link.start}:{link.end} in {len(annotation.text)} characters")
    return problems
