"""Your own data: one JSON object for each image, described in docs/your-data.md.

    {"image": "photos/dog.jpg", "captions": ["A dog chases a ball."], "expressions": [...], ...}

Usually an object is a line; a list of objects is read, too. Those with the same id become one
record. An error becomes a defect that names line and field, and loses as little as possible: a bad
mask loses its phrase, a line that cannot be parsed loses that line.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from glamm_jax.data import rle
from glamm_jax.data.record import DatasetSource, ReadResult
from glamm_jax.data.sources.conversation_turns import read_text_turns, read_turns
from glamm_jax.data.sources.dataset_files import ImageFile, find_image, open_image_file
from glamm_jax.data.sources.defects import (
    BAD_BOX,
    BAD_MASK,
    BROKEN_ENTRY,
    DUPLICATE_ID,
    LABELS_AND_MASKS,
    MISSING_IMAGE,
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
    as_numbers,
    as_text,
    json_problem,
)
from glamm_jax.data.sources.json_layouts import MAX_LINE, JSONSpan, locate_values, read_value
from glamm_jax.data.sources.mask_files import read_mask_file
from glamm_jax.data.sources.phrase_spans import PhraseSpans
from glamm_jax.data.sources.record_builder import Box, RecordBuilder
from glamm_jax.json_files import JSONError, parse_json
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG

BROKEN_LINE = "broken line"
BROKEN_MARKUP = "broken markup"
UNKNOWN_FIELD = "unknown field"

_START, _END, _SEG = map(re.escape, (PHRASE_START, PHRASE_END, SEG))
# A phrase contains no token itself, so that a text of many tokens takes linear time.
_PHRASE = re.compile(rf"{_START}((?:(?!{_START}|{_END}).)*){_END}((?:\s*{_SEG})+)", re.DOTALL)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(//|[a-z]+/)|data:")
_TOKEN = re.compile(f"{_START}|{_END}|{_SEG}")


class JsonlSource:
    """A file of JSON objects. Keys are ids, or "line 7" for an object without a readable id."""

    def __init__(self, root: Path, split: str):
        """List the objects of a split; `root` is the file.

        Raises:
            SourceError: there is no such file, its layout or encoding cannot be read, none of its
                objects describes an image, or none has this split.
        """
        if not root.is_file():
            raise SourceError(f"{root}: no such file; a file of JSON lines is expected")
        self.name, self.split, self._path = root.stem, split, root
        # Objects of each key. One that cannot be read belongs to every split.
        self._spans: dict[str, list[JSONSpan]] = {}
        splits: set[str] = set()
        problem = ""
        for span in locate_values(root):
            log = DefectLog(f"line {span.line}")
            fields = self._parse(span, log)
            key, own_split = f"line {span.line}", self.split
            if fields is not None:
                key = as_id(fields.get("id")) or fields["image"]
                own_split = fields.get("split", "train")
                splits.add(own_split)
            else:
                problem = problem or log.defects[0].where
            if own_split == self.split:
                self._spans.setdefault(key, []).append(span)
        num_values = sum(map(len, self._spans.values()))
        if not splits and num_values > 1:
            raise SourceError(
                f"{root}: none of {num_values} entries can be read; {problem}; docs/your-data.md "
                "describes the format"
            )
        if splits and not self._spans:
            available = ", ".join(sorted(map(quoted, splits)))
            raise SourceError(f"{root}: no entry has split {split!r}; available: {available}")

    @property
    def keys(self) -> Sequence[str]:
        """Ids in the order of the file."""
        return list(self._spans)

    def read(self, key: str) -> ReadResult:
        """Read all objects of an id."""
        log = DefectLog(self._path.name)
        builder: RecordBuilder | None = None
        image_name = None
        for span in self._spans[key]:
            log.where = f"{self._path.name} line {span.line}"
            fields = self._parse(span, log)
            if fields is None:
                continue
            if builder is None:
                image_name = fields["image"]
                image = self._read_image(image_name, log)
                builder = None if image is None else RecordBuilder(image, log)
            elif fields["image"] != image_name:
                log.add(DUPLICATE_ID, f"id: {quoted(key)} is already {quoted(image_name)}")
                continue
            if builder is not None:
                _LineReader(builder, self._path.parent).add_line(fields)
        if builder is None:
            return log.no_record()
        return builder.build(key, self.name, self.split)

    def _parse(self, span: JSONSpan, log: DefectLog) -> Fields | None:
        if span.size > MAX_LINE:
            log.add(BROKEN_LINE, f"longer than {MAX_LINE >> 20} MiB; give masks as files")
            return None
        return _parse_object(read_value(self._path, span), log)

    def _read_image(self, name: str, log: DefectLog) -> ImageFile | None:
        """Read an image; None and a defect where that is not possible."""
        folder = self._path.parent
        if _URL.match(name):
            log.add(MISSING_IMAGE, f"image: {quoted(name)} is no path; save the image as a file")
            return None
        places = f"image: no file {quoted(name)} in {folder}"
        if "\\" in name:
            places = f"image: no file {quoted(name)}; write / in paths, not \\"
        return open_image_file(lambda x: find_image(folder, [""], x), name, places, log)


def _parse_object(data: bytes, log: DefectLog) -> Fields | None:
    """The fields of an object; None and defects if its image, id or split cannot be read."""
    try:
        fields = parse_json(data, log.where)
    except JSONError as error:
        log.add(BROKEN_LINE, json_problem(error).removeprefix(f"{log.where}: "))
        return None
    if not isinstance(fields, dict):
        log.add(BROKEN_LINE, f"must be an object, not {quoted(fields)}")
        return None
    if isinstance(fields.get("images"), list) and isinstance(fields.get("annotations"), list):
        log.add(BROKEN_LINE, "COCO's layout; an object for each image is expected")
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
    if "image" not in fields:
        names = ", ".join(quoted(name) for name in list(fields)[:8])
        problems[0] = f"image: missing; the fields are {names or 'none'}"
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
            items = as_list(fields.get(name), self._log, name)
            if name == "conversations" and any(isinstance(item, dict) for item in items):
                items = [items]  # LLaVA's form: the turns of one conversation
            for i, item in enumerate(items):
                read(item, f"{name}[{i}]")

    def _add_caption(self, item: Any, where: str) -> None:
        text = as_text(item, self._log, where)
        if text:
            self._builder.add_annotation("caption", text, where=where)

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
            self._builder.add_annotation("referring", text, regions, where)

    def _add_region(self, item: Any, where: str) -> None:
        fields = self._fields(item, ("description", "box"), where)
        if not fields:
            return
        text = as_text(fields.get("description"), self._log, f"{where}.description")
        box = self._parse_box(fields.get("box"), f"{where}.box")
        region = self._builder.add_region(box, None)
        if text and region is not None:
            self._builder.add_annotation("region", text, [region], where)

    def _parse_box(self, value: Any, where: str) -> Box | None:
        if self._is_fraction(as_numbers(value, 4)):
            problem = f"{quoted(value)} is in fractions of the image; pixels are expected"
            self._log.add(BAD_BOX, f"{where}: {problem}")
            return None
        return self._builder.parse_box(value, where)

    def _is_fraction(self, numbers: Sequence[float] | None) -> bool:
        """Whether coordinates are between 0 and 1, but the image has more pixels."""
        image = self._builder.image
        return bool(numbers) and min(numbers) >= 0 and max(numbers) <= 1 < max(image[1:])

    def _add_conversation(self, item: Any, where: str) -> None:
        items = as_list(item, self._log, where)
        has_speakers = any(isinstance(turn, dict) for turn in items)
        turns = (read_turns if has_speakers else read_text_turns)(items, self._log, where)
        if turns:
            self._builder.add_conversation(turns, where)

    def _add_masks(self, value: Any, where: str) -> list[int | None]:
        """Add a region for each mask of a list; None for a mask that cannot be read."""
        masks = as_list(value, self._log, where)
        if not masks:
            self._log.add(MISSING_MASK, f"{where}: must be a list of masks")
        return [self._add_mask(mask, f"{where}[{i}]") for i, mask in enumerate(masks)]

    def _add_mask(self, value: Any, where: str) -> int | None:
        parts = value
        if isinstance(value, str) or (isinstance(value, dict) and "file" in value):
            mask = read_mask_file(self._folder, value, self._log, where)
            if mask is None:
                return None
            if isinstance(value, dict) and not mask.any():
                where = f"{where}: no pixel of the file is selected by {quoted(value)}"
            parts = rle.encode(mask)
        if isinstance(parts, list) and any(isinstance(part, int | float) for part in parts):
            problem = "a polygon must be in a list of polygons, [[x, y, ...], ...]"
            self._log.add(BAD_MASK, f"{where}: {problem}")
            return None
        polygons = parts if isinstance(parts, list) else []
        numbers = [as_numbers(x, len(x)) for x in polygons if isinstance(x, list)]
        if numbers and all(map(self._is_fraction, numbers)):
            problem = f"{quoted(parts)} is in fractions of the image; pixels are expected"
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
