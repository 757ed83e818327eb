"""Your own data: one JSON object on each line, described in docs/your-data.md.

    {"image": "photos/dog.jpg", "captions": ["A dog chases a ball."], "expressions": [...], ...}

Every line is read on its own; lines with the same id become one record. An error becomes a defect
that names line and field, and loses as little as possible: a bad mask loses its phrase, a line that
cannot be parsed loses that line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.data import rle
from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.dataset_files import read_image_file, require_split
from glamm_jax.data.sources.defects import (
    BAD_MASK,
    BROKEN_ENTRY,
    DUPLICATE_ID,
    LABELS_AND_MASKS,
    MISSING_MASK,
    NO_ANNOTATION,
    DefectLog,
    SourceError,
    quoted,
)
from glamm_jax.data.sources.json_files import (
    Fields,
    as_fields,
    as_id,
    as_list,
    as_text,
    parse_json,
)
from glamm_jax.data.sources.mask_annotations import read_label_map
from glamm_jax.data.sources.phrase_spans import PhraseSpans
from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG

BROKEN_LINE = "broken line"
BROKEN_MARKUP = "broken markup"
UNKNOWN_FIELD = "unknown field"

_START, _END, _SEG = map(re.escape, (PHRASE_START, PHRASE_END, SEG))
# A phrase contains no token itself, so that a text of many tokens takes linear time.
_PHRASE = re.compile(rf"{_START}((?:(?!{_START}|{_END}).)*){_END}((?:\s*{_SEG})+)", re.DOTALL)
_TOKEN = re.compile(f"{_START}|{_END}|{_SEG}")


class JsonlSource:
    """A file of JSON lines. Keys are ids, or "line 7" for a line without a readable id."""

    def __init__(self, root: Path, split: str):
        """List the lines of a split; `root` is the file.

        Raises:
            SourceError: there is no such file.
        """
        if not root.is_file():
            raise SourceError(f"{root}: no such file; a file of JSON lines is expected")
        self.name, self.split, self._path = root.stem, split, root
        # Lines of each key: number and offset in the file. A broken line belongs to every split.
        self._lines: dict[str, list[tuple[int, int]]] = {}
        splits: dict[str, None] = {}
        offset = 0
        with open(root, "rb") as stream:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    fields = _parse_line(line, DefectLog(""))
                    key, line_split = f"line {number}", self.split
                    if fields is not None:
                        key = as_id(fields.get("id")) or fields["image"]
                        line_split = fields.get("split", "train")
                        splits[line_split] = None
                    if line_split == self.split:
                        self._lines.setdefault(key, []).append((number, offset))
                offset += len(line)
        if splits:
            require_split(root.name, split, splits)

    @property
    def keys(self) -> Sequence[str]:
        """Ids in the order of the file."""
        return list(self._lines)

    def read(self, key: str) -> ReadResult:
        """Read all lines of an id."""
        log = DefectLog(self._path.name)
        builder: RecordBuilder | None = None
        image_name = None
        for number, offset in self._lines[key]:
            log.where = f"{self._path.name} line {number}"
            with open(self._path, "rb") as stream:
                stream.seek(offset)
                fields = _parse_line(stream.readline(), log)
            if fields is None:
                continue
            if builder is None:
                image_name = fields["image"]
                image = read_image_file(self._path.parent / image_name, log)
                builder = None if image is None else RecordBuilder(image, log)
            elif fields["image"] != image_name:
                log.add(DUPLICATE_ID, f"id: {quoted(key)} is already {quoted(image_name)}")
                continue
            if builder is not None:
                _LineReader(builder, self._path.parent).add_line(fields)
        if builder is None:
            return log.no_record()
        return builder.build(key, self.name, self.split)


def _parse_line(line: bytes, log: DefectLog) -> Fields | None:
    """The fields of a line; None and defects if its image, id or split cannot be read."""
    try:
        fields = parse_json(line)
    except ValueError as error:
        log.add(BROKEN_LINE, f"not valid JSON: {error}")
        return None
    if not isinstance(fields, dict):
        log.add(BROKEN_LINE, f"must be an object, not {quoted(fields)}")
        return None
    problems = [
        f"{name}: must be a {expected}, not {quoted(fields.get(name))}"
        for name, expected, is_valid in (
            ("image", "path", _is_text(fields.get("image"))),
            ("id", "text or number", "id" not in fields or as_id(fields["id"]) is not None),
            ("split", "name", "split" not in fields or _is_text(fields["split"])),
        )
        if not is_valid
    ]
    for problem in problems:
        log.add(BROKEN_LINE, problem)
    return None if problems else fields


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


class _LineReader:
    """Adds the fields of one line to a record. `where` names the field, for defects."""

    def __init__(self, builder: RecordBuilder, folder: Path):
        self._builder, self._log, self._folder = builder, builder.log, folder

    def add_line(self, fields: Fields) -> None:
        """Add every field."""
        readers: dict[str, Callable[[Any, str], None]] = {
            "captions": self._add_caption,
            "grounded_captions": self._add_grounded_caption,
            "expressions": self._add_expression,
            "regions": self._add_region,
            "conversations": self._add_conversation,
        }
        self._check_names(fields, ("image", "id", "split", *readers), "")
        if not any(fields.get(name) for name in readers):
            self._log.add(NO_ANNOTATION, f"none of {', '.join(readers)}")
        for name, read in readers.items():
            for i, item in enumerate(as_list(fields.get(name), self._log, name)):
                read(item, f"{name}[{i}]")

    def _add_caption(self, item: Any, where: str) -> None:
        text = as_text(item, self._log, where)
        if text:
            self._builder.add_annotation("caption", text)

    def _add_grounded_caption(self, item: Any, where: str) -> None:
        fields = self._fields(item, ("text", "phrases", "masks"), where)
        text = as_text(fields.get("text"), self._log, f"{where}.text") if fields else ""
        if not text:
            return
        if "phrases" in fields:
            phrases = PhraseSpans(text, self._log, where)
            for i, phrase in enumerate(as_list(fields["phrases"], self._log, f"{where}.phrases")):
                self._add_phrase(phrase, phrases, f"{where}.phrases[{i}]")
            self._builder.add_grounded_caption(text, phrases, where)
        else:
            self._add_marked_caption(text, fields.get("masks"), where)

    def _add_marked_caption(self, text: str, masks: Any, where: str) -> None:
        """Add a caption whose phrases are marked with <p>, </p> and [SEG]."""
        # Remove the tokens of complete phrases; spans: start, end, number of [SEG].
        plain, end_of_match = "", 0
        spans: list[tuple[int, int, int]] = []
        for match in _PHRASE.finditer(text):
            plain += text[end_of_match : match.start()]
            start = len(plain)
            plain += match[1].strip()
            spans.append((start, len(plain), match[2].count(SEG)))
            end_of_match = match.end()
        plain += text[end_of_match:]
        token = _TOKEN.search(plain)
        if token:
            problem = f"{token.group()} at {token.start()} of {quoted(plain)} is not part of"
            self._log.add(BROKEN_MARKUP, f"{where}.text: {problem} <p> ... </p> [SEG]")
            return
        regions = self._add_masks(masks, f"{where}.masks")
        num_segs = sum(count for _, _, count in spans)
        if num_segs != len(regions):
            numbers = f"{num_segs} [SEG] and {len(regions)} masks"
            self._log.add(LABELS_AND_MASKS, f"{where}: {numbers}")
            spans = []
        phrases, first = PhraseSpans(plain, self._log, where), 0
        for start, end, count in spans:
            phrases.add_phrase(None, [start, end], _readable(regions[first : first + count]))
            first += count
        self._builder.add_grounded_caption(plain, phrases, where)

    def _add_phrase(self, item: Any, phrases: PhraseSpans, where: str) -> None:
        fields = self._fields(item, ("phrase", "span", "masks"), where)
        phrase = None
        if "phrase" in fields:
            phrase = as_text(fields["phrase"], self._log, f"{where}.phrase")
        masks, place = fields.get("masks"), f"{where}.masks"
        regions = _readable(self._add_masks(masks, place)) if fields else []
        if not regions or phrase == "":
            return
        if "span" in fields:
            phrases.add_phrase(phrase, fields["span"], regions)
        elif phrase is not None:
            phrases.search_phrase(phrase, regions)
        else:
            self._log.add(BROKEN_ENTRY, f"{where}: neither phrase nor span")

    def _add_expression(self, item: Any, where: str) -> None:
        fields = self._fields(item, ("text", "masks"), where)
        text = as_text(fields.get("text"), self._log, f"{where}.text") if fields else ""
        masks, place = fields.get("masks"), f"{where}.masks"
        regions = _readable(self._add_masks(masks, place)) if fields else []
        if text and regions:
            self._builder.add_annotation("referring", text, regions)

    def _add_region(self, item: Any, where: str) -> None:
        fields = self._fields(item, ("description", "box"), where)
        if not fields:
            return
        text = as_text(fields.get("description"), self._log, f"{where}.description")
        box = self._builder.parse_box(fields.get("box"), f"{where}.box")
        region = self._builder.add_region(box, None)
        if text and region is not None:
            self._builder.add_annotation("region", text, [region])

    def _add_conversation(self, item: Any, where: str) -> None:
        turns = as_list(item, self._log, where)
        texts = [as_text(turn, self._log, f"{where}[{i}]") for i, turn in enumerate(turns)]
        if not turns or len(turns) % 2:
            problem = f"{len(turns)} turns; the first must be the user's, the last the assistant's"
            self._log.add(BROKEN_ENTRY, f"{where}: {problem}")
        elif all(texts):
            self._builder.add_conversation(texts)

    def _add_masks(self, value: Any, where: str) -> list[int | None]:
        """Add a region for each mask of a list; None for a mask that cannot be read."""
        masks = as_list(value, self._log, where)
        if not masks:
            self._log.add(MISSING_MASK, f"{where}: must be a list of masks")
        return [self._add_mask(mask, f"{where}[{i}]") for i, mask in enumerate(masks)]

    def _add_mask(self, value: Any, where: str) -> int | None:
        parts = value
        if isinstance(value, str):  # an image whose pixels are 0 outside of the mask
            labels = read_label_map(self._folder, value, self._log, where)
            if labels is None:
                return None
            parts = rle.encode(labels != 0)
        if isinstance(parts, list) and any(isinstance(part, int | float) for part in parts):
            problem = "a polygon must be in a list of polygons, [[x, y, ...], ...]"
            self._log.add(BAD_MASK, f"{where}: {problem}")
            return None
        return self._builder.add_region(None, self._builder.parse_mask(parts, where))

    def _fields(self, item: Any, names: Sequence[str], where: str) -> Fields:
        """The fields of an object; a defect for each field that is not one of `names`."""
        fields = as_fields(item, self._log, where)
        self._check_names(fields, names, f"{where}.")
        return fields

    def _check_names(self, fields: Fields, names: Sequence[str], prefix: str) -> None:
        for name in fields:
            if name not in names:
                matches = difflib.get_close_matches(name, names, n=1)
                hint = f"available: {', '.join(names)}"
                if matches:
                    hint = f"did you mean {matches[0]}?"
                self._log.add(UNKNOWN_FIELD, f"{prefix}{quoted(name)}: no such field; {hint}")


def _readable(regions: Sequence[int | None]) -> list[int]:
    return [region for region in regions if region is not None]


DATASETS: dict[str, Callable[[Path, str], DatasetSource]] = {"jsonl": JsonlSource}
