"""Defects of annotations: their kinds, the log that collects them, and the error of a dataset.

Annotations come from many places and contain errors. A reader checks the type of every value before
it uses it. A value that cannot be used becomes a `Defect` of one of the kinds below, with its
place; the rest of the record is kept. A dataset that cannot be opened at all raises `SourceError`.
"""

from __future__ import annotations

import re
import reprlib
from typing import Any

from glamm_jax.data.record import Defect, ReadResult
from glamm_jax.errors import GLaMMError

# Kinds of defects: what reports count.
BAD_BOX = "bad box"
BAD_MASK = "bad mask"
BAD_SPAN = "bad span"
BROKEN_ARCHIVE = "broken archive"
BROKEN_ENTRY = "broken entry"
BROKEN_TEXT = "broken text"
DUPLICATE_ID = "duplicate id"
EMPTY_MASK = "empty mask"
EMPTY_TEXT = "empty text"
EXTRA_SPANS = "extra spans ignored"
LABELS_AND_MASKS = "labels and masks differ in number"
MASK_SIZE = "wrong mask size"
MISSING_ENTRY = "missing entry"
MISSING_IMAGE = "missing image"
MISSING_MASK = "missing mask"
NO_ANNOTATION = "no annotation"
NO_GROUNDINGS = "no groundings"
NO_END_MARKER = "JPEG without its end marker"
NULL_GROUNDING = "null grounding"
NULL_SPAN = "null span"
OUTSIDE_FILE = "file outside of its folder"
OVERLAPPING_PARTS = "overlapping polygons"
OVERLAPPING_PHRASES = "overlapping phrases"
PHRASE_DIFFERS = "phrase differs from its span"
PHRASE_NOT_FOUND = "phrase not in its caption"
REPEATED_EXPRESSION = "repeated expression"
REPEATED_PHRASE = "repeated phrase"
RESERVED_TOKEN = "reserved token"
SHORT_CAPTION = "short caption"
SIZE_MISMATCH = "size mismatch"
SMALL_BOX = "small box"
SMALL_IMAGE = "small image"
STALE_SPAN = "stale span"
UNKNOWN_CLASS = "unknown class"
UNKNOWN_ID = "unknown id"
UNREADABLE_IMAGE = "unreadable image"

# Key of an entry that belongs to no image -> kind and place of its defect.
DefectsByKey = dict[str, tuple[str, str]]

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
MAX_QUOTED = 60  # characters of a value that are shown in a defect


class SourceError(GLaMMError):
    """A dataset cannot be opened. Names the file and says what to do."""


class DefectLog:
    """Collects the defects of one image or line, in the order in which they are found.

    Attributes:
        where: the place that all of these defects share: a file, a line or a key.
        defects: those collected so far.
    """

    def __init__(self, where: str):
        self.where = where
        self.defects: list[Defect] = []

    def add(self, kind: str, where: str) -> None:
        """Add a defect; `where` is its place inside of `self.where`."""
        self.defects.append(Defect(kind, f"{self.where}: {where}"))

    def no_record(self) -> ReadResult:
        """Return the result of a read that gives no record."""
        return ReadResult(None, tuple(self.defects))


def quoted(value: Any) -> str:
    """Return a value from a file as text that is short enough for a report."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = LONE_SURROGATE.sub("?", text[: MAX_QUOTED + 1])
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 3] + "..."
