"""One record an image: the picture as it was stored, and everything that is said about it.

Every source becomes records once, whatever it looks like on disk; tasks are drawn from records
again and again (`glamm_jax.data.conversation_sampler`). Nothing here knows a question or a token.

    Record(image=b"...", regions=(dog, ball), annotations=(
        Annotation("gcg", "A dog chases a ball.", links=(Link(0, 0, 5), Link(1, 13, 19))),
        Annotation("referring", "the brown dog", links=(Link(0),)),
    ))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args, runtime_checkable

from glamm_jax.errors import GLaMMError

Task = Literal["gcg", "referring", "semantic", "region", "caption", "vqa"]
TASKS: tuple[Task, ...] = get_args(Task)


class RecordError(GLaMMError):
    """A record contradicts itself, or cannot be read. Names the record, and what is wrong."""


@dataclass(frozen=True)
class Region:
    """A part of the picture: a box, a mask, or both.

    box_xyxy_pixel: in pixels of the picture, as annotated: it may reach beyond it.
    mask: COCO's compressed run lengths at the picture's size; the union where several make it up.
    overlap: the same, of the pixels that its polygons cover twice, where the original counts 2
        (trap 22); None where there are none.
    """

    box_xyxy_pixel: tuple[float, float, float, float] | None = None
    mask: bytes | None = None
    overlap: bytes | None = None


@dataclass(frozen=True)
class Link:
    """A region that a text speaks of, and the characters [start, end) that name it.

    -1, -1: the whole text. Several links with one span: their masks belong together.
    """

    region: int
    start: int = -1
    end: int = -1


@dataclass(frozen=True)
class Annotation:
    """One thing that is said about the picture.

    gcg: a caption whose phrases have regions with masks. referring: an expression and the regions
    it means. semantic: a class and its region. region: a description of a region's box. caption:
    a text without regions. vqa: `turns` that alternate, the user first; `text` is empty.
    """

    task: Task
    text: str = ""
    links: tuple[Link, ...] = ()
    turns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """A picture and what is said about it. `image` is the file's bytes; sizes are upright."""

    image: bytes
    image_id: str
    source: str
    split: str
    height: int
    width: int
    regions: tuple[Region, ...] = ()
    annotations: tuple[Annotation, ...] = ()


class Defect(NamedTuple):
    """Something in a source that could not be taken over as it is: counted by kind, and named."""

    kind: str  # a short name, the same for all of its kind: "null grounding", "missing image"
    where: str  # file, record, field


class ReadResult(NamedTuple):
    """What a source has under a key: a record, or none, and what was wrong on the way."""

    record: Record | None
    defects: tuple[Defect, ...] = ()


@runtime_checkable
class DatasetSource(Protocol):
    """A dataset on disk. Made anew in every process; `read` never raises for bad data."""

    @property
    def name(self) -> str:
        """The dataset's name, which becomes `Record.source`."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """One key a picture, in an order that is the same everywhere."""
        ...

    def read(self, key: str) -> ReadResult:
        """The record under a key."""
        ...


def check_record(record: Record) -> None:
    """Refuse a record whose parts do not fit each other.

    Raises: RecordError naming the record and all that is wrong with it.
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
        problems.append("an empty text")
    for link in annotation.links:
        if not 0 <= link.region < len(record.regions):
            problems.append(f"a link to region {link.region} of {len(record.regions)}")
        elif annotation.task == "gcg" and record.regions[link.region].mask is None:
            problems.append(f"region {link.region} of a grounded caption has no mask")
        whole = (link.start, link.end) == (-1, -1)
        if not whole and not 0 <= link.start < link.end <= len(annotation.text):
            problems.append(f"a span {link.start}:{link.end} in {len(annotation.text)} characters")
    return problems
