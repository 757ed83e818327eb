"""Your own data: one JSON object a line, described in docs/your-data.md.

    {"image": "photos/dog.jpg", "captions": ["A dog chases a ball."], "expressions": [...], ...}

Every line is read by itself; lines with one id become one record. What is wrong becomes a defect
that names line and field, and costs no more than it must: a bad mask its phrase, a bad line itself.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.data import rle
from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.mask_annotations import read_levels
from glamm_jax.data.sources.phrase_spans import Phrases
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import (
    BAD_MASK,
    BROKEN_ENTRY,
    DUPLICATE_ID,
    LABELS_AND_MASKS,
    MISSING_MASK,
    NO_ANNOTATION,
    DefectLog,
    Fields,
    SourceError,
    as_fields,
    as_id,
    as_list,
    as_text,
    parse_json,
    quoted,
    read_image_file,
)
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG

BROKEN_LINE = "broken line"
BROKEN_MARKUP = "broken markup"
UNKNOWN_FIELD = "unknown field"

_START, _END, _SEG = map(re.escape, (PHRASE_START, PHRASE_END, SEG))
# A phrase holds no mark of its own, so that a text of nothing but marks is read in one go.
_PHRASE = re.compile(rf"{_START}((?:(?!{_START}|{_END}).)*){_END}((?:\s*{_SEG})+)", re.DOTALL)
_MARK = re.compile(f"{_START}|{_END}|{_SEG}")
Spans = list[tuple[int, int, int]]


class JsonlSource:
    """A file of JSON lines. Keys are ids, or "line 7" where a line has none that can be read.

    Raises: SourceError when there is no such file.
    """

    def __init__(self, root: Path, split: str):
        if not root.is_file():
            raise SourceError(f"{root}: no such file; a file of JSON lines is expected")
        self.name, self.split, self._path = root.stem, split, root
        self._places: dict[str, list[tuple[int, int]]] = {}
        at = 0
        with open(root, "rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    self._sort_in(number, at, line)
                at += len(line)

    @property
    def keys(self) -> Sequence[str]:
        """Ids in the order of the file."""
        return list(self._places)

    def read(self, key: str) -> ReadResult:
        """Everything that the lines of an id say."""
        notes, draft, pictured = DefectLog(self._path.name), None, None
        for number, at in self._places[key]:
            notes.where = f"{self._path.name} line {number}"
            fields = self._fields(at, notes)
            if fields is None:
                continue
            image = fields["image"]
            if draft is None:
                picture, pictured = read_image_file(self._path.parent / image, notes), image
                draft = None if picture is None else RecordBuilder(picture, notes)
            elif image != pictured:
                notes.add(DUPLICATE_ID, f"id: {quoted(key)} is {quoted(pictured)} already")
                continue
            if draft is not None:
                _Line(draft, self._path.parent).fill(fields)
        if draft is None:
            return notes.nothing()
        return draft.result(key, self.name, self.split)

    def _sort_in(self, number: int, at: int, line: bytes) -> None:
        """Remember where a line stands. A broken one belongs to every split."""
        fields = _parsed(line, DefectLog(""))
        key, split = f"line {number}", self.split
        if fields is not None:
            key, split = as_id(fields.get("id")) or fields["image"], fields.get("split", "train")
        if split == self.split:
            self._places.setdefault(key, []).append((number, at))

    def _fields(self, at: int, notes: DefectLog) -> Fields | None:
        with open(self._path, "rb") as stream:
            stream.seek(at)
            return _parsed(stream.readline(), notes)


def _parsed(line: bytes, notes: DefectLog) -> Fields | None:
    """A line's fields, if they tell which picture of which split is meant."""
    try:
        fields = parse_json(line)
    except ValueError as error:
        notes.add(BROKEN_LINE, f"no readable JSON: {error}")
        return None
    if not isinstance(fields, dict):
        notes.add(BROKEN_LINE, f"an object is expected, not {quoted(fields)}")
        return None
    wrong = [
        f"{name}: a {what} is expected, not {quoted(fields.get(name))}"
        for name, what, fine in (
            ("image", "path", _is_text(fields.get("image"))),
            ("id", "text or number", "id" not in fields or as_id(fields["id"]) is not None),
            ("split", "name", "split" not in fields or _is_text(fields["split"])),
        )
        if not fine
    ]
    for problem in wrong:
        notes.add(BROKEN_LINE, problem)
    return None if wrong else fields


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


class _Line:
    """What one line says, on its way into a draft. `where` names the field, for defects."""

    def __init__(self, draft: RecordBuilder, folder: Path):
        self._draft, self._notes, self._folder = draft, draft.notes, folder

    def fill(self, fields: Fields) -> None:
        """Take every field over."""
        readers: dict[str, Callable[[Any, str], None]] = {
            "captions": self._caption,
            "grounded_captions": self._grounded_caption,
            "expressions": self._expression,
            "regions": self._region,
            "conversations": self._conversation,
        }
        self._check_names(fields, ("image", "id", "split", *readers), "")
        if not any(fields.get(name) for name in readers):
            self._notes.add(NO_ANNOTATION, f"it has none of {', '.join(readers)}")
        for name, read in readers.items():
            for i, item in enumerate(as_list(fields.get(name), self._notes, name)):
                read(item, f"{name}[{i}]")

    def _caption(self, item: Any, where: str) -> None:
        text = as_text(item, self._notes, where)
        if text:
            self._draft.annotate("caption", text)

    def _grounded_caption(self, item: Any, where: str) -> None:
        fields = self._object(item, ("text", "phrases", "masks"), where)
        text = as_text(fields.get("text"), self._notes, f"{where}.text") if fields else ""
        if not text:
            return
        if "phrases" in fields:
            phrases = Phrases(text, self._notes, where)
            for i, phrase in enumerate(as_list(fields["phrases"], self._notes, f"{where}.phrases")):
                self._phrase(phrase, phrases, f"{where}.phrases[{i}]")
            self._draft.annotate_phrases(text, phrases, where)
        else:
            self._marked_caption(text, fields.get("masks"), where)

    def _marked_caption(self, text: str, listed: Any, where: str) -> None:
        plain, spans = _unmarked(text)
        mark = _MARK.search(plain)
        if mark:
            what = f"{mark.group()} at {mark.start()} of {quoted(plain)} is not part of"
            self._notes.add(BROKEN_MARKUP, f"{where}.text: {what} <p> ... </p> [SEG]")
            return
        regions = self._masks(listed, f"{where}.masks")
        num_segs = sum(count for _, _, count in spans)
        if num_segs != len(regions):
            numbers = f"{num_segs} [SEG] and {len(regions)} masks"
            self._notes.add(LABELS_AND_MASKS, f"{where}: {numbers}")
            spans = []
        phrases, at = Phrases(plain, self._notes, where), 0
        for start, end, count in spans:
            phrases.place(None, [start, end], _known(regions[at : at + count]))
            at += count
        self._draft.annotate_phrases(plain, phrases, where)

    def _phrase(self, item: Any, phrases: Phrases, where: str) -> None:
        fields = self._object(item, ("phrase", "span", "masks"), where)
        phrase = None
        if "phrase" in fields:
            phrase = as_text(fields["phrase"], self._notes, f"{where}.phrase")
        regions = _known(self._masks(fields.get("masks"), f"{where}.masks")) if fields else []
        if not regions or phrase == "":
            return
        if "span" in fields:
            phrases.place(phrase, fields["span"], regions)
        elif phrase is not None:
            phrases.search(phrase, regions)
        else:
            self._notes.add(BROKEN_ENTRY, f"{where}: neither phrase nor span")

    def _expression(self, item: Any, where: str) -> None:
        fields = self._object(item, ("text", "masks"), where)
        text = as_text(fields.get("text"), self._notes, f"{where}.text") if fields else ""
        regions = _known(self._masks(fields.get("masks"), f"{where}.masks")) if fields else []
        if text and regions:
            self._draft.annotate("referring", text, regions)

    def _region(self, item: Any, where: str) -> None:
        fields = self._object(item, ("description", "box"), where)
        if not fields:
            return
        text = as_text(fields.get("description"), self._notes, f"{where}.description")
        box = self._draft.box(fields.get("box"), f"{where}.box")
        region = self._draft.region(box, None)
        if text and region is not None:
            self._draft.annotate("region", text, [region])

    def _conversation(self, item: Any, where: str) -> None:
        turns = as_list(item, self._notes, where)
        texts = [as_text(turn, self._notes, f"{where}[{i}]") for i, turn in enumerate(turns)]
        if not turns or len(turns) % 2:
            what = f"{len(turns)} turns; the user speaks first, the assistant last"
            self._notes.add(BROKEN_ENTRY, f"{where}: {what}")
        elif all(texts):
            self._draft.annotate_turns(texts)

    def _masks(self, value: Any, where: str) -> list[int | None]:
        """A region for each mask of a list, None for one that cannot be read."""
        listed = as_list(value, self._notes, where)
        if not listed:
            self._notes.add(MISSING_MASK, f"{where}: a list of masks is expected")
        return [self._mask(item, f"{where}[{i}]") for i, item in enumerate(listed)]

    def _mask(self, value: Any, where: str) -> int | None:
        parts = self._painted(value, where) if isinstance(value, str) else value
        if isinstance(parts, list) and any(isinstance(part, int | float) for part in parts):
            self._notes.add(BAD_MASK, f"{where}: polygons are lists in a list, [[x, y, ...], ...]")
            return None
        if parts is None and isinstance(value, str):
            return None
        return self._draft.region(None, self._draft.mask(parts, where))

    def _painted(self, name: str, where: str) -> Any:
        """Run lengths of a picture whose pixels are 0 outside of the mask."""
        levels = read_levels(self._folder, name, self._notes, where)
        return None if levels is None else rle.encode(levels != 0)

    def _object(self, item: Any, known: Sequence[str], where: str) -> Fields:
        fields = as_fields(item, self._notes, where)
        self._check_names(fields, known, f"{where}.")
        return fields

    def _check_names(self, fields: Fields, known: Sequence[str], where: str) -> None:
        for name in fields:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
                self._notes.add(UNKNOWN_FIELD, f"{where}{quoted(name)}: no such field; {hint}")


def _known(regions: Sequence[int | None]) -> list[int]:
    return [region for region in regions if region is not None]


def _unmarked(text: str) -> tuple[str, Spans]:
    """A caption without its marks, and where its phrases are: start, end, number of [SEG]."""
    plain, spans, at = "", [], 0
    for match in _PHRASE.finditer(text):
        plain += text[at : match.start()]
        start = len(plain)
        plain += match[1].strip()
        spans.append((start, len(plain), match[2].count(SEG)))
        at = match.end()
    return plain + text[at:], spans


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {"jsonl": JsonlSource}
