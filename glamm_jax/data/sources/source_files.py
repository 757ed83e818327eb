"""What all readers of datasets share: files that may lie, and the list of what was wrong.

Annotations come from elsewhere. Whatever stands in them is asked for its type before it is used,
and what does not fit becomes a `Defect` with a kind from the list below and a place; the rest of
the record goes on.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from glamm_jax.data.preprocess import ImageError, open_image
from glamm_jax.data.record import Defect, ReadResult
from glamm_jax.errors import GLaMMError

# Kinds of defects: the words that a report counts.
BAD_BOX = "bad box"
BAD_MASK = "bad mask"
BAD_SPAN = "bad span"
BROKEN_ARCHIVE = "broken archive"
BROKEN_ENTRY = "broken entry"
BROKEN_TEXT = "broken text"
DUPLICATE_ID = "duplicate id"
EMPTY_MASK = "empty mask"
EMPTY_TEXT = "empty text"
EXTRA_SPANS = "further spans unused"
LABELS_AND_MASKS = "labels and masks differ in number"
MASK_SIZE = "mask of another size"
MISSING_ENTRY = "missing entry"
MISSING_IMAGE = "missing image"
MISSING_MASK = "missing mask"
NO_GROUNDINGS = "no groundings"
NO_ANNOTATION = "nothing said"
NULL_GROUNDING = "null grounding"
NULL_SPAN = "null span"
OVERLAPPING_PARTS = "overlapping polygons"
OVERLAPPING_PHRASES = "overlapping phrases"
PHRASE_DIFFERS = "phrase differs from its span"
PHRASE_NOT_FOUND = "phrase not in its caption"
REPEATED_EXPRESSION = "repeated expression"
REPEATED_PHRASE = "repeated phrase"
SHORT_CAPTION = "short caption"
SIZE_MISMATCH = "size mismatch"
SMALL_BOX = "small box"
SMALL_IMAGE = "small image"
STALE_SPAN = "stale span"
UNKNOWN_CLASS = "unknown class"
UNKNOWN_ID = "unknown id"
UNREADABLE_IMAGE = "unreadable image"

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
# What stands in a file under names; of a pickle not even those are sure to be texts.
Fields = dict[Any, Any]
MAX_QUOTED = 60  # characters of a foreign value in a defect


class SourceError(GLaMMError):
    """A dataset that cannot be opened at all. Says which file, and what to do."""


class DefectLog:
    """The defects of one read, in the order in which they were met."""

    def __init__(self, where: str):
        self.where = where
        self.defects: list[Defect] = []

    def add(self, kind: str, where: str) -> None:
        """One more, with its place inside of `self.where`."""
        self.defects.append(Defect(kind, f"{self.where}: {where}"))

    def nothing(self) -> ReadResult:
        """What a read ends with that gives no record."""
        return ReadResult(None, tuple(self.defects))


class ImageFile(NamedTuple):
    """A picture's file as it is, and its upright size."""

    data: bytes
    height: int
    width: int


def read_json(path: Path) -> Any:
    """A file that a whole dataset hangs on.

    Raises: SourceError naming it when it is absent or no JSON.
    """
    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    try:
        return parse_json(path.read_bytes())
    except ValueError as error:
        raise SourceError(f"{path}: no readable JSON ({error}); fetch the file again") from error


def parse_json(data: bytes) -> Any:
    """JSON. Raises: ValueError, also for nesting without end."""
    try:
        return json.loads(data)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def require_split(name: str, split: str, splits: Collection[str]) -> None:
    """Raises: SourceError when a dataset has no such split; it lists those that there are."""
    if split not in splits:
        raise SourceError(f"{name}: no split {split!r}; there are {', '.join(splits)}")


def first_existing(root: Path, places: Iterable[str]) -> Path:
    """The first of several places that exists: layouts differ between documentation and code.

    Raises: SourceError listing all places when none does.
    """
    places = list(places)
    for place in places:
        if (root / place).exists():
            return root / place
    raise SourceError(f"{root}: no {' and no '.join(places)} in it")


def find_image(root: Path, folders: Iterable[str], name: str) -> Path | None:
    """The file of this name in the first folder that has it."""
    paths = (os.path.join(root, folder, name) for folder in folders)
    # os.path.isfile is content with names that no file system takes.
    return next((Path(path) for path in paths if os.path.isfile(path)), None)


def open_image_file(
    path: Path | None, folders: Sequence[str], notes: DefectLog
) -> ImageFile | None:
    """A picture that was looked for in some folders; None and a defect where it cannot be read."""
    if path is None:
        notes.add(MISSING_IMAGE, f"not in {' or '.join(folders)}")
    return read_image_file(path, notes) if path else None


def read_image_file(path: Path, notes: DefectLog) -> ImageFile | None:
    """A picture that decodes from its first to its last row; None and a defect otherwise."""
    try:
        data = path.read_bytes()
        height, width = open_image(data).shape[:2]
    except ImageError as error:
        notes.add(UNREADABLE_IMAGE, f"{path.name}: {error}")
    except (OSError, ValueError) as error:  # a name with a zero byte is a ValueError
        notes.add(MISSING_IMAGE, f"{path.name}: {error}")
    else:
        return ImageFile(data, height, width)
    return None


def quoted(value: Any) -> str:
    """A foreign value, short enough for a report."""
    text = value if isinstance(value, str) else reprlib.repr(value)
    text = LONE_SURROGATE.sub("?", text[: MAX_QUOTED + 1])
    return text if len(text) <= MAX_QUOTED else text[: MAX_QUOTED - 3] + "..."


def as_text(value: Any, notes: DefectLog, where: str) -> str:
    """A text with letters or digits in it, "" and a defect where there is none.

    Half characters are replaced one by one, so that spans stay where they are.
    """
    if not isinstance(value, str) or not any(map(str.isalnum, value)):
        notes.add(EMPTY_TEXT, f"{where}: {quoted(value)}")
        return ""
    if not LONE_SURROGATE.search(value):
        return value
    notes.add(BROKEN_TEXT, f"{where}: half a character")
    return LONE_SURROGATE.sub("\ufffd", value)


def as_list(value: Any, notes: DefectLog, where: str) -> list[Any]:
    """A list; none is an empty one, and anything else is that and a defect."""
    if value is not None and not isinstance(value, list):
        notes.add(BROKEN_ENTRY, f"{where}: {quoted(value)} is no list")
    return value if isinstance(value, list) else []


def as_fields(value: Any, notes: DefectLog, where: str) -> Fields:
    """A JSON object, empty and a defect where there is none."""
    if isinstance(value, dict):
        return value
    notes.add(BROKEN_ENTRY, f"{where}: {quoted(value)} has no fields")
    return {}


def as_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """So many finite numbers, or None."""
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if not all(isinstance(x, int | float) and not isinstance(x, bool) for x in value):
        return None
    try:
        numbers = tuple(float(x) for x in value)
    except OverflowError:
        return None
    return numbers if all(math.isfinite(x) for x in numbers) else None


def as_id(value: Any) -> str | None:
    """A number or a text that names something, as text; None for what names nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    try:
        return str(value)
    except ValueError:  # a whole number of thousands of digits
        return None
