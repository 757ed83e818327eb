"""The JSON objects of a file of any layout: one on each line, a list, or several lines for each.

Only their places are kept. In a file with one object on each line a broken line costs that line;
any other layout has to be valid as a whole.
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import BinaryIO, NamedTuple

from glamm_jax.data.sources.defects import SourceError
from glamm_jax.files import bounded_lines
from glamm_jax.json_files import MAX_BYTES, JSONError, decode_text, parse_json

MAX_LINE = 1 << 24  # bytes; a line needs thirty times as much memory when it is parsed
COMPRESSED = ((b"\x1f\x8b", "gzip"), (b"PK\x03\x04", "zip"), (b"\x28\xb5\x2f\xfd", "zstd"))
ONE_LINE_EACH = (
    'python -c "import json,sys; [print(json.dumps(x)) for x in json.load(open(sys.argv[1]))]" '
    "FILE > FILE.jsonl"
)


class JSONSpan(NamedTuple):
    """The place of a JSON value in a file.

    Attributes:
        line: number of the line on which it begins, from 1.
        offset: in bytes.
        size: in bytes; more than `MAX_LINE` if the line is too long to be read.
    """

    line: int
    offset: int
    size: int


def locate_values(path: Path) -> list[JSONSpan]:
    """Locate the values of a file; an element of a list is a value.

    Raises:
        SourceError: the file is compressed or in another encoding than UTF-8, or its layout is not
            one object on each line and it is not valid JSON. Says how to convert it.
    """
    with open(path, "rb") as stream:
        first = _first_line(stream, path)
    if not _is_object(first):
        spans = _locate_in_text(path, first.strip())
        if spans is not None:
            return spans
    return _locate_lines(path)


def read_value(path: Path, span: JSONSpan) -> bytes:
    """Return the bytes of a value."""
    with open(path, "rb") as stream:
        stream.seek(span.offset)
        return stream.read(span.size)


def _first_line(stream: BinaryIO, path: Path) -> bytes:
    """The first line that is not blank, without byte order mark."""
    head = stream.read(4)
    for magic, name in COMPRESSED:
        if head.startswith(magic):
            raise SourceError(f"{path}: a {name} file; unpack it first")
    stream.seek(0)
    line = b"\n"
    while line and not line.removeprefix(codecs.BOM_UTF8).strip():
        line = stream.readline(MAX_LINE)
    may_be_utf16 = b"\0" in line[:4] or line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        decode_text(line[:4] if may_be_utf16 else b"", str(path))
    except JSONError as error:
        raise SourceError(str(error)) from error
    return line.removeprefix(codecs.BOM_UTF8)


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(parse_json(line.strip().removesuffix(b","), ""), dict)
    except JSONError:
        return False


def _locate_in_text(path: Path, first_line: bytes) -> list[JSONSpan] | None:
    """The values of a list, or of objects one after the other; None if the file is neither.

    A first line that is only a bracket rules out one object on each line; every error in such a
    file is final.
    """
    if first_line[:1] not in (b"{", b"["):
        return None
    is_certain = first_line[:1] == b"[" or first_line == b"{"
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise SourceError(
                f"{path}: {size / 1e6:.0f} MB that are not one object on each line; convert it: "
                f"{ONE_LINE_EACH}"
            )
        data = path.read_bytes()
        return _scan(decode_text(data, str(path)), path, data.startswith(codecs.BOM_UTF8))
    except (SourceError, JSONError) as error:
        if is_certain:
            raise SourceError(str(error)) from error
        return None


def _scan(text: str, path: Path, has_mark: bool) -> list[JSONSpan]:
    """Places of the elements of a list, or of values that are separated by spaces or commas."""
    decoder, spans = json.JSONDecoder(), []
    position = _skip(text, 0)
    is_list = text.startswith("[", position)
    position += is_list
    end_of_last, line, offset = 0, 1, len(codecs.BOM_UTF8) if has_mark else 0
    while True:
        position = _skip(text, position)
        if is_list and text.startswith("]", position):
            if text[position + 1 :].strip():
                raise _error(text, _skip(text, position + 1), path, "more text behind the list")
            return spans
        if position == len(text):
            if is_list:
                raise _error(text, position, path, "the list has no end")
            return spans
        try:
            _, end = decoder.raw_decode(text, position)
        except RecursionError as error:
            raise _error(text, position, path, "nested too deeply") from error
        except json.JSONDecodeError as error:
            raise _error(text, error.pos, path, error.msg) from error
        except ValueError as error:  # an integer of thousands of digits
            raise _error(text, position, path, str(error)) from error
        line += text.count("\n", end_of_last, position)
        offset += len(text[end_of_last:position].encode())
        size = len(text[position:end].encode())
        spans.append(JSONSpan(line, offset, size))
        line, offset = line + text.count("\n", position, end), offset + size
        end_of_last, position = end, _skip(text, end)
        if text.startswith(",", position):
            position += 1
        elif is_list and not text.startswith("]", position):
            raise _error(text, position, path, "a comma or ] is expected")


def _skip(text: str, position: int) -> int:
    """The position of the next character that is no white space."""
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _error(text: str, position: int, path: Path, problem: str) -> SourceError:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return SourceError(f"{path}: line {line}, column {column}: not valid JSON: {problem}")


def _locate_lines(path: Path) -> list[JSONSpan]:
    """The lines that are not blank, without a comma at their ends."""
    spans: list[JSONSpan] = []
    offset = num_foreign = num_invalid = first_invalid = 0
    with open(path, "rb") as stream:
        for number, (line, size) in enumerate(bounded_lines(stream, MAX_LINE + 1), 1):
            if offset == 0 and line.startswith(codecs.BOM_UTF8):
                offset, size = len(codecs.BOM_UTF8), size - len(codecs.BOM_UTF8)
                line = line.removeprefix(codecs.BOM_UTF8)
            if size > MAX_LINE and not line.endswith(b"\n"):
                spans.append(JSONSpan(number, offset, size))
            elif text := line.strip():
                text = text[:-1] if text.endswith(b"},") else text
                spans.append(JSONSpan(number, offset + line.index(text[:1]), len(text)))
                if not text.isascii():
                    num_foreign += 1
                    is_valid = _is_utf8(text)
                    num_invalid += not is_valid
                    first_invalid = first_invalid or number * (not is_valid)
            offset += size
    if num_invalid > 1 and 2 * num_invalid > num_foreign:
        raise SourceError(
            f"{path}: {num_invalid} lines, the first of them line {first_invalid}, are not UTF-8; "
            "save the file as UTF-8 (for Chinese text often iconv -f GB18030 -t UTF-8 FILE)"
        )
    return spans


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
