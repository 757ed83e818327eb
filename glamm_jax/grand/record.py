"""The annotations of one image, as each stage adds to them.

    record = GrandRecord(objects=(GrandObject(0, (8.0, 6.0, 40.0, 30.0), ("dog",), 0.9),))
    record.to_json()["objects"][0]["bbox"]      # [8.0, 6.0, 40.0, 30.0]
    GrandRecord.from_json(record.to_json()) == record

The JSON form is that of the released GranD files (`bbox`, `segmentation`, ...); what this library
adds has keys of its own (`votes`, `relations`, `checks`). A field that is None has no key, but for
`attributes`, which is null there. Boxes are x0 y0 x1 y1 in pixels of the upright image, masks COCO
run lengths of its size, spans [start, end) in characters, depth is inverse: larger is nearer.

Source: GranD/README and the writers of the released code, `utils/`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Box = tuple[float, float, float, float]
Span = tuple[int, int]
RunLengths = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Detection:
    """What a detector, a region captioner or SAM's own annotations say about one box.

    Attributes:
        box: x0 y0 x1 y1 in pixels.
        score: in [0, 1].
        label: name of the class; None for a description.
        description: of the region; None for a class.
        mask: COCO run lengths, where the model returns one.
    """

    box: Box
    score: float
    label: str | None = None
    description: str | None = None
    mask: RunLengths | None = None


@dataclass(frozen=True, slots=True)
class Vote:
    """A detection that was merged into an object.

    Attributes:
        source: name of the model.
        text: its label or description.
        score: of the detection, in [0, 1].
        kind: of the text.
    """

    source: str
    text: str
    score: float
    kind: Literal["label", "description"] = "label"


@dataclass(frozen=True, slots=True)
class GrandObject:
    """An object, or a floating object: one that too few models found.

    Attributes:
        id: number in the record; it does not change after fusion, except with the option
            `relations.renumber`, as in the released code.
        box: x0 y0 x1 y1 in pixels.
        labels: candidates, best first.
        score: of the detection with the highest priority; None for a box that a phrase found.
        attributes: descriptions, newest first; None if there are none.
        votes: the detections that were merged, in the order of the sources' priority.
        label: chosen from `labels`.
        depth: median inverse depth inside the box; larger is nearer.
        mask: COCO run lengths of the size of the image.
        mask_source: "SAM", "EVA" or "HQ_SAM" in released files; ours: "proposal", the name of a
            detector, or "segmenter".
    """

    id: int
    box: Box
    labels: tuple[str, ...]
    score: float | None = None
    attributes: tuple[str, ...] | None = None
    votes: tuple[Vote, ...] = ()
    label: str | None = None
    depth: float | None = None
    mask: RunLengths | None = None
    mask_source: str | None = None


@dataclass(frozen=True, slots=True)
class PhraseLink:
    """A phrase of a short caption and the objects that it names.

    Attributes:
        phrase: lower case.
        object_ids: in the order in which they were linked.
    """

    phrase: str
    object_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """Subject, predicate and object, as the paper describes them; ids are those of objects.

    Attributes:
        subject_ids: of the objects that the subject names.
        predicate: words between subject and object, lower case.
        object_ids: of the objects that the object names.
        caption: index of the short caption that says so.
    """

    subject_ids: tuple[int, ...]
    predicate: str
    object_ids: tuple[int, ...]
    caption: int = 0


@dataclass(frozen=True, slots=True)
class PhraseGrounding:
    """A phrase of a caption and its objects.

    Attributes:
        phrase: as in the caption.
        span: its characters in the caption; None where the released code has none.
        object_ids: of its objects.
        boxes: of these objects; None for an id that no object has, as in released files.
    """

    phrase: str
    span: Span | None
    object_ids: tuple[int, ...]
    boxes: tuple[Box | None, ...]


@dataclass(frozen=True, slots=True)
class GrandCaption:
    """A caption with the groundings of its phrases."""

    caption: str
    groundings: tuple[PhraseGrounding, ...] = ()


@dataclass(frozen=True, slots=True)
class CaptionAttempt:
    """One answer of the language model to the request for a dense caption.

    Attributes:
        text: the answer.
        finish_reason: why the model stopped; "stop" is a complete answer.
        problem: why the answer was rejected before verification; None: it was not.
        checklist: phrases that the caption implies, by the checker.
        missing: those of them that the scene graph does not have.
    """

    text: str
    finish_reason: str = "stop"
    problem: str | None = None
    checklist: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GrandRecord:
    """The annotations of one image.

    Attributes:
        objects: found by enough models, or promoted.
        floating_objects: found by too few.
        floating_attributes: boxes of region captioners that no object has; their ids are -1.
        landmark: "category" and "fine_category"; None: not classified.
        affordances: name -> "description", "object_ids", "labels".
        captions: the short captions.
        links: from phrases of the short captions to objects.
        linked_ids: of all objects in `links`.
        linked_floating_ids: of all floating objects in `links`.
        relations: subject, predicate, object.
        id_counter: smallest number that no object has had yet.
        short_captions: `captions` with the groundings of their phrases.
        dense_caption: of level 3.
        dense_source: who wrote it: the language model, or the template that replaces it.
        attempts: all answers of the language model, the accepted one last.
        verified: whether the last attempt names nothing that the graph does not have; None: not
            verified, as in the released code.
        additional_context: of level 4.
    """

    objects: tuple[GrandObject, ...] = ()
    floating_objects: tuple[GrandObject, ...] = ()
    floating_attributes: tuple[GrandObject, ...] = ()
    landmark: Mapping[str, str] | None = None
    affordances: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    links: tuple[PhraseLink, ...] = ()
    linked_ids: tuple[int, ...] = ()
    linked_floating_ids: tuple[int, ...] = ()
    relations: tuple[Relation, ...] = ()
    id_counter: int | None = None
    short_captions: tuple[GrandCaption, ...] | None = None
    dense_caption: GrandCaption | None = None
    dense_source: Literal["llm", "template"] | None = None
    attempts: tuple[CaptionAttempt, ...] = ()
    verified: bool | None = None
    additional_context: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the annotations in the form of the released files."""
        raise NotImplementedError

    @classmethod
    def from_json(cls, value: Mapping[str, Any], where: str = "record") -> GrandRecord:
        """Read annotations, ours or released.

        Args:
            value: one image's object of a GranD file.
            where: name of the file and image, for messages.

        Raises:
            GLaMMError: a field has a wrong type.
        """
        raise NotImplementedError
