"""What a person changed in the annotations of an image, as data.

    {"objects": [{"id": 3, "box": [8, 6, 40, 30], "label": "dog", "attributes": ["a brown dog"],
                  "mask": {"size": [h, w], "counts": "..."}, "mask_source": "segmenter"}],
     "removed": [5],
     "dense_caption": {"caption": "A dog.", "phrases": [{"start": 0, "end": 5, "ids": [3]}]},
     "short_captions": [{"caption": "...", "phrases": []}]}

It is complete with respect to the automatic record, not to an earlier correction: `objects` has all
of each object that differs from it or is new. A caption that has no key is that of the automatic
record; an empty dense caption is none. Spans are [start, end) in characters (code points).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from glamm_jax.data import rle
from glamm_jax.data.rle import MaskError
from glamm_jax.errors import GLaMMError
from glamm_jax.grand.record import Box, RunLengths, Span
from glamm_jax.json_files import JSONError, JSONObject, show

MAX_OBJECTS = 5_000
MAX_ID = 1 << 31
MAX_CAPTIONS = 1_000
MAX_PHRASES = 2_000  # of a caption
MAX_CAPTION = 20_000  # characters
MAX_NAME = 500  # characters of a label
MAX_ATTRIBUTES, MAX_ATTRIBUTE = 100, 2_000


class CorrectionError(GLaMMError):
    """A correction cannot be used. Names the object or the caption, and says why."""


@dataclass(frozen=True, slots=True)
class CorrectedObject:
    """An object that a person changed or drew.

    Attributes:
        id: of the object; that of no other object if it is new.
        box: x0 y0 x1 y1 in pixels.
        label: its name; None: it has none.
        attributes: descriptions; None if there are none.
        mask: COCO run lengths; None: it has none.
        mask_source: where the mask is from, see `GrandObject`.
    """

    id: int
    box: Box
    label: str | None
    attributes: tuple[str, ...] | None
    mask: RunLengths | None
    mask_source: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the object as JSON."""
        return {
            "id": self.id,
            "box": list(self.box),
            "label": self.label,
            "attributes": None if self.attributes is None else list(self.attributes),
            "mask": self.mask,
            "mask_source": self.mask_source,
        }


@dataclass(frozen=True, slots=True)
class CorrectedPhrase:
    """A phrase of a caption.

    Attributes:
        span: its characters in the caption.
        object_ids: of the objects that it names; at least one.
    """

    span: Span
    object_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CorrectedCaption:
    """A caption with the phrases that name objects."""

    caption: str
    phrases: tuple[CorrectedPhrase, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the caption as JSON."""
        phrases = [
            {"start": item.span[0], "end": item.span[1], "ids": list(item.object_ids)}
            for item in self.phrases
        ]
        return {"caption": self.caption, "phrases": phrases}


@dataclass(frozen=True, slots=True)
class Correction:
    """All that a person changed in the automatic record of an image.

    Attributes:
        objects: that differ from those of the record, or are new.
        removed: ids of objects that are wrong.
        dense_caption: None: as in the record.
        short_captions: None: as in the record.
    """

    objects: tuple[CorrectedObject, ...] = ()
    removed: tuple[int, ...] = ()
    dense_caption: CorrectedCaption | None = None
    short_captions: tuple[CorrectedCaption, ...] | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing was changed."""
        return self == Correction()

    def to_json(self) -> dict[str, Any]:
        """Return the correction as JSON."""
        value: dict[str, Any] = {}
        if self.objects:
            value["objects"] = [item.to_json() for item in self.objects]
        if self.removed:
            value["removed"] = list(self.removed)
        if self.dense_caption is not None:
            value["dense_caption"] = self.dense_caption.to_json()
        if self.short_captions is not None:
            value["short_captions"] = [item.to_json() for item in self.short_captions]
        return value

    @classmethod
    def from_json(cls, value: Any, where: str) -> Correction:
        """Read a correction.

        Args:
            value: as `to_json` returns it.
            where: the file and line, for messages.

        Raises:
            JSONError: a field is missing, unknown, too long, or has a wrong type or value.
        """
        fields = JSONObject(value, where)
        check_keys(fields, ("objects", "removed", "dense_caption", "short_captions"))
        objects = [_object(item) for item in _limited_objects(fields, "objects", MAX_OBJECTS)]
        removed = _ids(fields, "removed")
        _check_unique([item.id for item in objects], fields.place("objects"))
        dense = fields.object("dense_caption", None)
        short = None
        if "short_captions" in fields:
            items = _limited_objects(fields, "short_captions", MAX_CAPTIONS)
            short = tuple(caption_from_json(item) for item in items)
        return cls(
            tuple(objects), removed, None if dense is None else caption_from_json(dense), short
        )


def caption_from_json(fields: JSONObject) -> CorrectedCaption:
    """Read a caption.

    Raises:
        JSONError: a field is missing, unknown, too long, or has a wrong type or value; a span is
            not in the caption.
    """
    check_keys(fields, ("caption", "phrases"))
    text = checked_text(fields, "caption", MAX_CAPTION)
    phrases = []
    for item in _limited_objects(fields, "phrases", MAX_PHRASES):
        check_keys(item, ("start", "end", "ids"))
        start, end = item.integer("start", minimum=0), item.integer("end", minimum=0)
        if not start < end <= len(text) or not text[start:end].strip():
            raise JSONError(
                f"{item.where}: start = {start}, end = {end} are not the characters of a phrase; "
                f"the caption has {len(text)}"
            )
        ids = _ids(item, "ids")
        if not ids:
            raise JSONError(f"{item.place('ids')}: a phrase names at least one object")
        phrases.append(CorrectedPhrase((start, end), ids))
    spans = [item.span for item in phrases]
    if len(set(spans)) < len(spans):
        raise JSONError(f"{fields.place('phrases')}: two phrases have the same characters")
    return CorrectedCaption(text, tuple(sorted(phrases, key=lambda item: item.span)))


def _object(fields: JSONObject) -> CorrectedObject:
    check_keys(fields, ("id", "box", "label", "attributes", "mask", "mask_source"))
    number = fields.integer("id", minimum=0, maximum=MAX_ID)
    return CorrectedObject(
        number,
        box_from_json(fields),
        checked_text(fields, "label", MAX_NAME) if "label" in fields else None,
        attributes_from_json(fields),
        mask_from_json(fields),
        checked_text(fields, "mask_source", MAX_NAME) if "mask_source" in fields else None,
    )


def box_from_json(fields: JSONObject) -> Box:
    """Read the field `box`: four finite numbers, in order.

    Raises:
        JSONError: it is not such a box.
    """
    values = fields.array("box")
    numbers = JSONObject({str(i): value for i, value in enumerate(values)}, fields.place("box"))
    if len(values) != 4:
        raise JSONError(f"{fields.place('box')} = {show(values)} is not [x0, y0, x1, y1]")
    x0, y0, x1, y1 = (numbers.number(str(i)) for i in range(4))
    if not (x0 < x1 and y0 < y1):
        raise JSONError(f"{fields.place('box')} = {show(values)} has no area")
    return x0, y0, x1, y1


def attributes_from_json(fields: JSONObject) -> tuple[str, ...] | None:
    """Read the field `attributes`: texts that are not empty; None if there are none.

    Raises:
        JSONError: it is something else, or too long.
    """
    values = fields.array("attributes", None)
    if not values:
        return None
    where = fields.place("attributes")
    if len(values) > MAX_ATTRIBUTES:
        raise JSONError(f"{where}: {len(values)} texts; at most {MAX_ATTRIBUTES} are read")
    texts = JSONObject({str(i): value for i, value in enumerate(values)}, where)
    return tuple(checked_text(texts, str(i), MAX_ATTRIBUTE) for i in range(len(values)))


def mask_from_json(fields: JSONObject) -> RunLengths | None:
    """Read the field `mask`: COCO run lengths, or None.

    Raises:
        JSONError: it is damaged.
    """
    mask = fields.object("mask", None)
    if mask is None:
        return None
    check_keys(mask, ("size", "counts"))
    try:
        rle.check(mask.fields)
    except (MaskError, TypeError) as error:
        raise JSONError(f"{mask.where}: {error}") from error
    return mask.fields


def checked_text(fields: JSONObject, name: str, limit: int) -> str:
    """Return a text of bounded length that can be written as UTF-8.

    Args:
        fields: of an object.
        name: of the field.
        limit: characters of the longest text.

    Raises:
        JSONError: it is missing, not a text, too long, or has half of a surrogate pair.
    """
    text = fields.text(name)
    if len(text) > limit:
        raise JSONError(f"{fields.place(name)}: {len(text)} characters; at most {limit} are read")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise JSONError(f"{fields.place(name)}: has half of a surrogate pair") from error
    return text


def check_keys(fields: JSONObject, names: Iterable[str]) -> None:
    """Check that an object has no other keys.

    Args:
        fields: of the object.
        names: of the keys that it may have.

    Raises:
        JSONError: it has.
    """
    names = tuple(names)
    for key in fields:
        if key not in names:
            raise JSONError(f"{fields.where}: no key {show(key)}; there are: {', '.join(names)}")


def _limited_objects(fields: JSONObject, name: str, limit: int) -> list[JSONObject]:
    number = len(fields.array(name, []))
    if number > limit:
        raise JSONError(f"{fields.place(name)}: {number} elements; at most {limit} are read")
    return fields.objects(name)


def _ids(fields: JSONObject, name: str) -> tuple[int, ...]:
    values = fields.array(name, [])
    where = fields.place(name)
    if len(values) > MAX_OBJECTS:
        raise JSONError(f"{where}: {len(values)} ids; at most {MAX_OBJECTS} are read")
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_ID:
            raise JSONError(f"{where}: {show(value)} is not the id of an object")
    _check_unique(values, where)
    return tuple(values)


def _check_unique(ids: list[int], where: str) -> None:
    if len(set(ids)) < len(ids):
        raise JSONError(f"{where}: an id is repeated")
