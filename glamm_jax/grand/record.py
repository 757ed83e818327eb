"""The annotations of one image, as each stage adds to them.

    record = GrandRecord(objects=(GrandObject(0, (8.0, 6.0, 40.0, 30.0), ("dog",), 0.9),))
    record.to_json()["objects"][0]["bbox"]      # [8.0, 6.0, 40.0, 30.0]
    GrandRecord.from_json(record.to_json()) == record

The JSON form is that of the released GranD files (`bbox`, `segmentation`, ...); what this library
adds has keys of its own (`votes`, `relations`, `checks`). A field that is None has no key, but for
`attributes`, which is null there. What a file writes in another way (a missing list, a text instead
of a list, null, an unknown key) stays in `irregular`, so that reading and writing changes nothing.
Boxes are x0 y0 x1 y1 in pixels of the upright image, masks COCO
run lengths of its size, spans [start, end) in characters, depth is inverse: larger is nearer.

Source: GranD/README and the writers of the released code, `utils/`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from json.encoder import encode_basestring_ascii as encode_text
from typing import Any, Literal, TypeVar, cast, get_args

from glamm_jax.json_files import JSONError, show

Box = tuple[float, float, float, float]
Span = tuple[int, int]
RunLengths = Mapping[str, Any]
# (key, value as read) of keys whose form is not regular; `MISSING` for a key that is absent.
Irregular = tuple[tuple[str, Any], ...]
MISSING = ...
NAN = math.nan  # one object, so that records with it compare equal
# One encoder for all texts: making one takes a quarter of the time of a call.
encode_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=False).encode


def number_text(value: float) -> str:
    """Return a number as JSON, as `encode_json` does.

    Raises:
        ValueError: it is not finite.
    """
    is_plain = type(value) is float and -math.inf < value < math.inf
    return repr(value) if is_plain else encode_json(value)


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
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the vote as JSON."""
        return {
            "source": self.source,
            "text": self.text,
            "score": self.score,
            "kind": self.kind,
        }

    def json_text(self) -> str:
        """Return the text of `to_json`; it is made once."""
        text = self._text
        if text is None:
            # Most of what is encoded are votes; this takes a third of the time of `encode_json`.
            text = (
                f'{{"source":{encode_text(self.source)},"text":{encode_text(self.text)},'
                f'"score":{number_text(self.score)},"kind":"{self.kind}"}}'
            )
            object.__setattr__(self, "_text", text)
        return text


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
        reviewed: a person drew it, or changed it.
        irregular: keys of the file that it was read from, see the module.
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
    reviewed: bool = False
    irregular: Irregular = ()
    _text: str | None = field(default=None, init=False, repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return the object in the form of the released files."""
        value = self._without_votes()
        if self.votes:
            value["votes"] = [vote.to_json() for vote in self.votes]
        return _with_irregular(value, self.irregular) if self.irregular else value

    def json_text(self) -> str:
        """Return the text of `to_json`; it is made once, however many records have the object."""
        text = self._text
        if text is None:
            if self.irregular or not self.votes:
                text = encode_json(self.to_json())
            else:
                votes = ",".join([vote.json_text() for vote in self.votes])
                text = f'{encode_json(self._without_votes())[:-1]},"votes":[{votes}]}}'
            object.__setattr__(self, "_text", text)
        return text

    def _without_votes(self) -> dict[str, Any]:
        value: dict[str, Any] = {"bbox": list(self.box), "labels": list(self.labels)}
        if self.score is not None:
            value["score"] = self.score
        value["attributes"] = None if self.attributes is None else list(self.attributes)
        if self.id >= 0:
            value["id"] = self.id
        if self.label is not None:
            value["label"] = self.label
        if self.depth is not None:
            value["depth"] = self.depth if self.depth == self.depth else "NaN"
        if self.mask is not None:
            value["segmentation"] = self.mask
        if self.mask_source is not None:
            value["segmentation_source"] = self.mask_source
        if self.reviewed:
            value["reviewed"] = True
        return value

    @classmethod
    def from_json(cls, value: Any, where: str = "object") -> GrandObject:
        """Read an object, ours or released.

        Args:
            value: an element of `objects`, `floating_objects` or `floating_attributes`.
            where: name of the file and object, for messages.

        Raises:
            JSONError: a field has a wrong type.
        """
        if not isinstance(value, dict):
            raise JSONError(f"{where}: {show(value)} is not an object {{...}}")
        irregular: list[tuple[str, Any]] = []
        labels = value.get("labels")
        if labels is None:
            irregular.append(("labels", labels if "labels" in value else MISSING))
            labels = ()
        attributes = value.get("attributes")
        if attributes is None:
            if "attributes" not in value:
                irregular.append(("attributes", MISSING))
        elif isinstance(attributes, str):
            irregular.append(("attributes", attributes))
            attributes = (attributes,)
        else:
            attributes = _texts(attributes, where, "attributes")
        number = value.get("id")
        if number is None or isinstance(number, bool) or not isinstance(number, int):
            if number is not None:
                raise JSONError(f"{where}: id = {show(number)} is not a whole number")
            number = -1
        elif number < 0:
            raise JSONError(f"{where}: id = {number} is negative")
        irregular += [
            (key, content)
            for key, content in value.items()
            if key not in _OBJECT_KEYS
            or (content is None and key in _OPTIONAL_OBJECT_KEYS)
            or (key == "reviewed" and content is not True)
        ]
        votes = value.get("votes")
        return cls(
            number,
            _box(value.get("bbox"), where),
            _texts(labels, where, "labels"),
            _number(value, "score", where),
            attributes,
            tuple(_vote(vote, where) for vote in _list(votes, where, "votes")) if votes else (),
            _text(value, "label", where),
            _number(value, "depth", where),
            _mapping(value, "segmentation", where),
            _text(value, "segmentation_source", where),
            value.get("reviewed") is True,
            tuple(irregular),
        )


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


ReviewState = Literal["approved", "corrected", "discarded", "outdated"]
REVIEW_STATES = get_args(ReviewState)


@dataclass(frozen=True, slots=True)
class RecordReview:
    """What persons decided about the annotations of an image.

    Attributes:
        state: "outdated": the decisions are about other annotations of the image, so that they are
            not applied.
        authors: of the decisions that apply, in the order of their first one.
        time: of the last decision, in UTC: "2026-11-30T02:12:05Z".
        decisions: number of decisions about the image, those that were undone included.
    """

    state: ReviewState
    authors: tuple[str, ...]
    time: str
    decisions: int

    @property
    def is_accepted(self) -> bool:
        """Whether a person approved or corrected the annotations."""
        return self.state in ("approved", "corrected")

    def to_json(self) -> dict[str, Any]:
        """Return the review as JSON."""
        return {
            "state": self.state,
            "authors": list(self.authors),
            "time": self.time,
            "decisions": self.decisions,
        }

    @classmethod
    def from_json(cls, value: Any, where: str) -> RecordReview:
        """Read a review.

        Args:
            value: as `to_json` returns it.
            where: name of the file and image, for messages.

        Raises:
            JSONError: a field has a wrong type.
        """
        state = _required(value, "state", where)
        if state not in REVIEW_STATES:
            raise JSONError(f"{where}: state = {show(state)} is none of {', '.join(REVIEW_STATES)}")
        number = value.get("decisions")
        if not isinstance(number, int) or isinstance(number, bool):
            raise JSONError(f"{where}: decisions = {show(number)} is not a whole number")
        authors = _texts(value.get("authors"), where, "authors")
        time = _required(value, "time", where)
        return cls(cast(ReviewState, state), authors, time, number)


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
        dense_source: who wrote it: the language model, the template that replaces it, or a person.
        attempts: all answers of the language model, the accepted one last.
        verified: whether the last attempt names nothing that the graph does not have; None: not
            verified, as in the released code.
        additional_context: of level 4.
        review: what persons decided about all of this; None: nothing.
        irregular: keys of the file that it was read from, see the module.
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
    dense_source: Literal["llm", "template", "reviewer"] | None = None
    attempts: tuple[CaptionAttempt, ...] = ()
    verified: bool | None = None
    additional_context: str | None = None
    review: RecordReview | None = None
    irregular: Irregular = ()

    def to_json(self) -> dict[str, Any]:
        """Return the annotations in the form of the released files."""
        objects = {key: [item.to_json() for item in items] for key, items in self._object_lists()}
        value = objects | self._without_objects()
        return _with_irregular(value, self.irregular) if self.irregular else value

    def json_text(self) -> str:
        """Return the text of `to_json`; what other records have as well is not encoded again."""
        if self.irregular:
            return encode_json(self.to_json())
        lists = [
            f'"{key}":[{",".join([item.json_text() for item in items])}],'
            for key, items in self._object_lists()
        ]
        return "{" + "".join(lists) + encode_json(self._without_objects())[1:]

    def _object_lists(self) -> tuple[tuple[str, tuple[GrandObject, ...]], ...]:
        return (
            ("objects", self.objects),
            ("floating_objects", self.floating_objects),
            ("floating_attributes", self.floating_attributes),
        )

    def _without_objects(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "landmark": "" if self.landmark is None else self.landmark,
            "affordances": self.affordances,
        }
        if self.id_counter is not None:
            value["id_counter"] = self.id_counter
        if _has_relationships(self):
            value["relationships"] = {
                "object_ids": list(self.linked_ids),
                "floating_object_ids": list(self.linked_floating_ids),
                "grounding": [
                    {"phrase": link.phrase, "object_ids": list(link.object_ids)}
                    for link in self.links
                ],
            }
        if _has_captions(self):
            value["captions"] = list(self.captions)
        if self.short_captions is not None:
            value["short_captions"] = [
                {"caption": c.caption, "details": [_short_detail(g) for g in c.groundings]}
                for c in self.short_captions
            ]
        if self.dense_caption is not None:
            value["dense_caption"] = {
                "caption": self.dense_caption.caption,
                "details": [_dense_detail(g) for g in self.dense_caption.groundings],
            }
        if self.additional_context is not None:
            value["additional_context"] = self.additional_context
        if self.relations:
            value["relations"] = [
                {
                    "subject_ids": list(r.subject_ids),
                    "predicate": r.predicate,
                    "object_ids": list(r.object_ids),
                    "caption": r.caption,
                }
                for r in self.relations
            ]
        if self.attempts or self.dense_source is not None or self.verified is not None:
            value["checks"] = {
                "source": self.dense_source,
                "verified": self.verified,
                "attempts": [
                    {
                        "text": a.text,
                        "finish_reason": a.finish_reason,
                        "problem": a.problem,
                        "checklist": list(a.checklist),
                        "missing": list(a.missing),
                    }
                    for a in self.attempts
                ],
            }
        if self.review is not None:
            value["review"] = self.review.to_json()
        return value

    @classmethod
    def from_json(cls, value: Any, where: str = "record") -> GrandRecord:
        """Read annotations, ours or released.

        Args:
            value: one image's object of a GranD file.
            where: name of the file and image, for messages.

        Raises:
            JSONError: a field has a wrong type.
        """
        if not isinstance(value, dict):
            raise JSONError(f"{where}: {show(value)} is not an object {{...}}")
        irregular = [(key, value.get(key, MISSING)) for key in _LIST_KEYS if value.get(key) is None]
        landmark = value.get("landmark")
        if not isinstance(landmark, dict):
            if landmark != "":
                if landmark:
                    raise JSONError(f"{where}: landmark = {show(landmark)} is not an object")
                irregular.append(("landmark", landmark if "landmark" in value else MISSING))
            landmark = None
        counter = value.get("id_counter")
        if counter is not None and (not isinstance(counter, int) or isinstance(counter, bool)):
            raise JSONError(f"{where}: id_counter = {show(counter)} is not a whole number")
        links = _mapping(value, "relationships", where) or {}
        if links and links.keys() != _LINK_KEYS:
            irregular.append(("relationships", links))
        dense = _mapping(value, "dense_caption", where)
        short = value.get("short_captions")
        checks = _mapping(value, "checks", where) or {}
        objects, floats, attributes = (
            tuple(
                GrandObject.from_json(item, f"{where}: {key}[{i}]")
                for i, item in enumerate(_list(value.get(key) or [], where, key))
            )
            for key in _LIST_KEYS[:3]
        )
        record = cls(
            objects,
            floats,
            attributes,
            landmark,
            _mapping(value, "affordances", where) or {},
            _texts(value.get("captions") or (), where, "captions"),
            tuple(
                PhraseLink(_required(item, "phrase", where), _ids(item, "object_ids", where))
                for item in _list(links.get("grounding") or [], where, "grounding")
            ),
            _ids(links, "object_ids", where),
            _ids(links, "floating_object_ids", where),
            tuple(
                Relation(
                    _ids(item, "subject_ids", where),
                    _required(item, "predicate", where),
                    _ids(item, "object_ids", where),
                    int(item.get("caption") or 0),
                )
                for item in _list(value.get("relations") or [], where, "relations")
            ),
            counter,
            None
            if short is None
            else tuple(
                _caption(item, _short_grounding, where)
                for item in _list(short, where, "short_captions")
            ),
            None if dense is None else _caption(dense, _dense_grounding, where),
            checks.get("source"),
            tuple(
                CaptionAttempt(
                    _required(item, "text", where),
                    item.get("finish_reason") or "stop",
                    item.get("problem"),
                    _texts(item.get("checklist") or (), where, "checklist"),
                    _texts(item.get("missing") or (), where, "missing"),
                )
                for item in _list(checks.get("attempts") or [], where, "attempts")
            ),
            checks.get("verified"),
            _text(value, "additional_context", where),
            None
            if value.get("review") is None
            else RecordReview.from_json(value["review"], f"{where}: review"),
        )
        irregular += [
            (key, content)
            for key, content in value.items()
            if key not in _RECORD_KEYS or (content is None and key in _OPTIONAL_RECORD_KEYS)
        ]
        for key, written in (
            ("relationships", _has_relationships(record)),
            ("captions", _has_captions(record)),
        ):
            if written is not (value.get(key) is not None):
                irregular.append((key, value.get(key, MISSING)))
        return replace(record, irregular=tuple(irregular)) if irregular else record


_LIST_KEYS = ("objects", "floating_objects", "floating_attributes", "affordances")
_LINK_KEYS = frozenset(("object_ids", "floating_object_ids", "grounding"))
_OPTIONAL_OBJECT_KEYS = frozenset(
    ("score", "id", "label", "depth", "segmentation", "segmentation_source", "votes", "reviewed")
)
_OBJECT_KEYS = _OPTIONAL_OBJECT_KEYS | {"bbox", "labels", "attributes"}
_OPTIONAL_RECORD_KEYS = frozenset(
    (
        *("id_counter", "short_captions", "dense_caption", "additional_context", "relations"),
        *("checks", "review"),
    )
)
_RECORD_KEYS = (
    _OPTIONAL_RECORD_KEYS.union(_LIST_KEYS) | {"landmark", "relationships", "captions"}
)  # fmt: skip
# field -> key, where they differ
_KEYS = {
    "box": "bbox",
    "mask": "segmentation",
    "mask_source": "segmentation_source",
    "links": "relationships",
    "linked_ids": "relationships",
    "linked_floating_ids": "relationships",
}
Part = TypeVar("Part", GrandObject, GrandRecord)


def changed(part: Part, **fields: Any) -> Part:
    """Return a copy with other fields, whose keys are written in the regular form from now on.

        changed(record, captions=("a dog",))

    Args:
        part: an object or a record.
        fields: the new fields.
    """
    if part.irregular:
        keys = {_KEYS.get(name, name) for name in fields}
        rest = tuple(entry for entry in part.irregular if entry[0] not in keys)
        fields.setdefault("irregular", rest)
    if isinstance(part, GrandObject):
        fields["_text"] = None
    copy = object.__new__(type(part))
    for name in part.__slots__:  # as `replace`, in half of its time
        value = fields.pop(name) if name in fields else getattr(part, name)
        object.__setattr__(copy, name, value)
    if fields:
        raise TypeError(f"{type(part).__name__} has no field {', '.join(fields)}")
    return copy


def _has_relationships(record: GrandRecord) -> bool:
    return record.id_counter is not None or bool(record.links)


def _has_captions(record: GrandRecord) -> bool:
    """Return whether the short captions stand alone; otherwise they stand with their groundings."""
    if record.short_captions is not None:
        return bool(record.captions)
    return record.id_counter is not None or bool(record.captions)


def _with_irregular(value: dict[str, Any], irregular: Irregular) -> dict[str, Any]:
    for key, content in irregular:
        if content is MISSING:
            value.pop(key, None)
        else:
            value[key] = content
    return value


def _short_detail(grounding: PhraseGrounding) -> dict[str, Any]:
    box = grounding.boxes[0] if grounding.boxes else None
    value = {
        "phrase": grounding.phrase,
        "tokens_positive": None if grounding.span is None else list(grounding.span),
        "id": grounding.object_ids[0],
        "bbox": None if box is None else list(box),
    }
    if len(grounding.object_ids) > 1:  # the released form has only one
        value["ids"] = list(grounding.object_ids)
        value["boxes"] = [None if box is None else list(box) for box in grounding.boxes]
    return value


def _dense_detail(grounding: PhraseGrounding) -> dict[str, Any]:
    return {
        "phrase": grounding.phrase,
        "tokens_positive": None if grounding.span is None else list(grounding.span),
        "ids": list(grounding.object_ids),
        "bbox": [None if box is None else list(box) for box in grounding.boxes],
    }


def _short_grounding(value: Any, where: str) -> PhraseGrounding:
    if isinstance(value, dict) and "ids" in value:
        boxes = _list(value.get("boxes"), where, "boxes")
        return _dense_grounding({**value, "bbox": boxes}, where)
    phrase = _required(value, "phrase", where)
    number, box = value.get("id"), value.get("bbox")
    if not isinstance(number, int):
        raise JSONError(f"{where}: id = {show(number)} is not a whole number")
    boxes = (None if box is None else _box(box, where),)
    return PhraseGrounding(phrase, _span(value, where), (number,), boxes)


def _dense_grounding(value: Any, where: str) -> PhraseGrounding:
    phrase = _required(value, "phrase", where)
    boxes = _list(value.get("bbox") or [], where, "bbox")
    return PhraseGrounding(
        phrase,
        _span(value, where),
        _ids(value, "ids", where),
        tuple(None if box is None else _box(box, where) for box in boxes),
    )


def _caption(
    value: Any, grounding: Callable[[Any, str], PhraseGrounding], where: str
) -> GrandCaption:
    text = _required(value, "caption", where)
    details = _list(value.get("details") or [], where, "details")
    return GrandCaption(text, tuple(grounding(item, where) for item in details))


def _span(value: Mapping[str, Any], where: str) -> Span | None:
    span = _ids(value, "tokens_positive", where)
    if not span:
        return None
    if len(span) != 2:
        raise JSONError(f"{where}: tokens_positive = {show(span)} is not [start, end]")
    return span[0], span[1]


def _vote(value: Any, where: str) -> Vote:
    # Most of a record's entries are votes, so that their types are checked together.
    try:
        source, text, score = value["source"], value["text"], value["score"]
        kind = value.get("kind", "label")
    except (AttributeError, KeyError, TypeError) as error:
        raise JSONError(f"{where}: {show(value)} is not a vote") from error
    if not (
        isinstance(source, str)
        and isinstance(text, str)
        and isinstance(score, float | int)
        and kind in ("label", "description")
    ):
        raise JSONError(f"{where}: {show(value)} is not a vote")
    return Vote(source, text, score, kind)


def _box(value: Any, where: str) -> Box:
    if not isinstance(value, list | tuple) or len(value) != 4:
        raise JSONError(f"{where}: bbox = {show(value)} is not [x0, y0, x1, y1]")
    for number in value:
        if not isinstance(number, float | int) or isinstance(number, bool):
            raise JSONError(f"{where}: bbox = {show(value)} has what is not a number")
    x0, y0, x1, y1 = value
    return x0, y0, x1, y1


def _list(value: Any, where: str, key: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise JSONError(f"{where}: {key} = {show(value)} is not a list [...]")
    return value


def _texts(value: Any, where: str, key: str) -> tuple[str, ...]:
    for item in _list(value, where, key):
        if not isinstance(item, str):
            raise JSONError(f"{where}: {key} = {show(value)} has what is not a text")
    return tuple(value)


def _ids(value: Any, key: str, where: str) -> tuple[int, ...]:
    if not isinstance(value, dict):
        raise JSONError(f"{where}: {show(value)} is not an object {{...}}")
    ids = value.get(key) or ()
    for item in _list(ids, where, key):
        if not isinstance(item, int) or isinstance(item, bool):
            raise JSONError(f"{where}: {key} = {show(ids)} has what is not a whole number")
    return tuple(ids)


def _required(value: Any, key: str, where: str) -> str:
    if not isinstance(value, dict):
        raise JSONError(f"{where}: {show(value)} is not an object {{...}}")
    text = value.get(key)
    if not isinstance(text, str):
        raise JSONError(f"{where}: {key} = {show(text)} is not a text")
    return text


def _text(value: Mapping[str, Any], key: str, where: str) -> str | None:
    text = value.get(key)
    return text if text is None else _required(value, key, where)


def _number(value: Mapping[str, Any], key: str, where: str) -> float | None:
    number = value.get(key)
    if number is None:
        return None
    if number == "NaN":  # how the recordings write it; the released files have a bare NaN
        return NAN
    if not isinstance(number, float | int) or isinstance(number, bool):
        raise JSONError(f"{where}: {key} = {show(number)} is not a number")
    return number if number == number else NAN


def _mapping(value: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any] | None:
    mapping = value.get(key)
    if mapping is not None and not isinstance(mapping, dict):
        raise JSONError(f"{where}: {key} = {show(mapping)} is not an object {{...}}")
    return mapping
