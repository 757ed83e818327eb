"""Read JSON of unknown origin: one tolerance, one error that names file and field.

    config = read_object(Path("config.json"))
    size = config.integer("hidden_size", minimum=1)
    scaling = config.object("rope_scaling", default=None)
    theta = config.number("rope_theta", default=10000.0, minimum=1.0)

UTF-8 is accepted with and without byte order mark. Every other encoding, values that are nested too
deeply, and files above a size limit are rejected. Numbers must be finite.
"""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator
from typing import Any, TypeVar

from glamm_jax.errors import GLaMMError
from glamm_jax.storage import AnyPath, size_of

MAX_BYTES = 1 << 28  # of a file that is read at once: 256 MiB
# Levels of nesting. Python's parser accepts some hundreds, but not all code that follows. Longer
# texts are annotations, which no code of this library walks through recursively.
MAX_DEPTH = 100
MAX_WALKED = 1 << 20  # characters
MAX_SHOWN = 60  # characters of a value in a message
OTHER_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
Default = TypeVar("Default")


class JSONError(GLaMMError):
    """JSON that is invalid, or a field with an impossible value."""


class _Required:
    """Marks a field that has no default."""


REQUIRED = _Required()


def decode_text(data: bytes, where: str) -> str:
    """Decode JSON in UTF-8, with or without byte order mark.

    Args:
        data: content of a file, or a line of it.
        where: the file, and the line if there are several; for the message.

    Raises:
        JSONError: it is in another encoding.
    """
    for mark, name in OTHER_ENCODINGS:
        if data.startswith(mark):
            raise JSONError(
                f"{where}: {name} text; save it as UTF-8 (iconv -f {name} -t UTF-8 FILE)"
            )
    # JSON begins with ASCII, so every other byte of UTF-16 is zero.
    zeros = [byte == 0 for byte in data[:4]]
    for pattern, name in (([False, True] * 2, "UTF-16LE"), ([True, False] * 2, "UTF-16BE")):
        if zeros == pattern:
            raise JSONError(
                f"{where}: {name} text; save it as UTF-8 (iconv -f {name} -t UTF-8 FILE)"
            )
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise JSONError(
            f"{where}: byte {error.start} is not UTF-8; save it as UTF-8 (for Chinese text often "
            "iconv -f GB18030 -t UTF-8 FILE)"
        ) from error


def parse_json(data: bytes | str, where: str) -> Any:
    """Parse JSON.

    Args:
        data: content of a file, or a line of it.
        where: the file, and the line if there are several; for the message.

    Raises:
        JSONError: it is not UTF-8, not JSON, or nested too deeply.
    """
    text = decode_text(data, where) if isinstance(data, bytes) else data
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise JSONError(f"{where}: nested too deeply") from error
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}: " if "\n" in text.strip() else ""
        raise JSONError(f"{where}: not valid JSON: {place}{error.msg}") from error
    except ValueError as error:  # an integer of thousands of digits
        raise JSONError(f"{where}: not valid JSON: {error}") from error
    if len(text) <= MAX_WALKED and _depth_exceeds(value, MAX_DEPTH):
        raise JSONError(f"{where}: nested too deeply")
    return value


def _depth_exceeds(value: Any, limit: int) -> bool:
    # Exact types, which the parser makes: half of the time of `isinstance`.
    level = [value] if type(value) in (dict, list) else []
    for _ in range(limit - 1):
        if not level:
            return False
        level = [
            item
            for outer in level
            for item in (outer.values() if type(outer) is dict else outer)
            if type(item) is list or type(item) is dict
        ]
    return any(level)


def read_json(path: AnyPath, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file.

    Args:
        path: of a regular file.
        max_bytes: largest size.

    Raises:
        JSONError: it is missing, no regular file, too large, or as for `parse_json`.
    """
    try:
        if not path.is_file():
            raise JSONError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
        size = size_of(path)
        if size > max_bytes:
            raise JSONError(f"{path}: {size} bytes; at most {max_bytes} are read")
        data = path.read_bytes()
    except OSError as error:
        raise JSONError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, JSONError):
            raise
        raise JSONError(f"{str(path)!r}: not a path: {error}") from error  # a null character
    return parse_json(data, str(path))


def read_object(path: AnyPath, max_bytes: int = MAX_BYTES) -> JSONObject:
    """Read a JSON file whose content is an object.

    Args:
        path: as for `read_json`.
        max_bytes: as for `read_json`.

    Raises:
        JSONError: as for `read_json`, or it is not an object.
    """
    return JSONObject(read_json(path, max_bytes), str(path))


def show(value: Any) -> str:
    """Return the beginning of a value, for a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return type(value).__name__
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."


class JSONObject:
    """The fields of a JSON object; every access checks the type.

    A field that is null counts as missing. The errors name the place, the field and the value.

    Attributes:
        fields: the fields as parsed.
        where: file, and path of the object in it.
    """

    def __init__(self, value: Any, where: str):
        """Check that a value is an object.

        Raises:
            JSONError: it is not.
        """
        if not isinstance(value, dict):
            raise JSONError(f"{where}: {show(value)} is not an object {{...}}")
        self.fields: dict[str, Any] = value
        self.where = where

    def __contains__(self, name: str) -> bool:
        return self.fields.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.fields)

    def place(self, name: str) -> str:
        """Return file and field, for a message."""
        return f"{self.where}: {name}"

    def value(self, name: str, default: Default | _Required = REQUIRED) -> Any | Default:
        """Return a field of any type.

        Args:
            name: of the field.
            default: for a missing field.

        Raises:
            JSONError: it is missing, and there is no default.
        """
        value = self.fields.get(name)
        if value is not None:
            return value
        if isinstance(default, _Required):
            raise JSONError(f"{self.where}: no field {name!r}")
        return default

    def _typed(self, name: str, types: type | tuple[type, ...], what: str, default: Any) -> Any:
        value = self.value(name, default)
        if name in self and (not isinstance(value, types) or isinstance(value, bool)):
            raise JSONError(f"{self.place(name)} = {show(value)} is not {what}")
        return value

    def text(self, name: str, default: Default | _Required = REQUIRED) -> str | Default:
        """Return a text; see `value`."""
        return self._typed(name, str, "a text", default)

    def integer(
        self,
        name: str,
        default: Default | _Required = REQUIRED,
        minimum: int | None = None,
        maximum: int | None = None,
    ) -> int | Default:
        """Return a whole number.

        Args:
            name: of the field.
            default: for a missing field.
            minimum: smallest valid value.
            maximum: largest valid value.

        Raises:
            JSONError: it is missing without a default, of another type, or out of range.
        """
        value = self.value(name, default)
        if name not in self:
            return value
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise JSONError(f"{self.place(name)} = {show(value)} is not a whole number")
        self._check_range(name, value, minimum, maximum)
        return value

    def number(
        self,
        name: str,
        default: Default | _Required = REQUIRED,
        minimum: float | None = None,
        maximum: float | None = None,
    ) -> float | Default:
        """Return a finite number.

        Args:
            name: of the field.
            default: for a missing field.
            minimum: smallest valid value.
            maximum: largest valid value.

        Raises:
            JSONError: it is missing without a default, of another type, or out of range.
        """
        value = self._typed(name, (int, float), "a number", default)
        if name not in self:
            return value
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
        if not math.isfinite(value):
            raise JSONError(f"{self.place(name)} = {show(self.fields[name])} is not finite")
        self._check_range(name, value, minimum, maximum)
        return value

    def _check_range(
        self, name: str, value: float, minimum: float | None, maximum: float | None
    ) -> None:
        if minimum is not None and value < minimum:
            raise JSONError(f"{self.place(name)} = {show(value)}: at least {minimum} is expected")
        if maximum is not None and value > maximum:
            raise JSONError(f"{self.place(name)} = {show(value)}: at most {maximum} is expected")

    def boolean(self, name: str, default: Default | _Required = REQUIRED) -> bool | Default:
        """Return true or false; see `value`."""
        value = self.value(name, default)
        if name in self and not isinstance(value, bool):
            raise JSONError(f"{self.place(name)} = {show(value)} is not true or false")
        return value

    def array(self, name: str, default: Default | _Required = REQUIRED) -> list[Any] | Default:
        """Return a list; see `value`."""
        return self._typed(name, list, "a list [...]", default)

    def object(self, name: str, default: Default | _Required = REQUIRED) -> JSONObject | Default:
        """Return an object; see `value`."""
        value = self.value(name, default)
        return JSONObject(value, self.place(name)) if name in self else value

    def objects(self, name: str) -> list[JSONObject]:
        """Return a list of objects; an empty one if the field is missing.

        Raises:
            JSONError: it is not a list, or an element is not an object.
        """
        values = self.array(name, [])
        return [JSONObject(x, f"{self.place(name)}[{i}]") for i, x in enumerate(values)]
