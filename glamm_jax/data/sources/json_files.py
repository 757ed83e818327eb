"""Reading of JSON, and checks of the types of its values.

The `as_*` functions return a value of the type that their name says, or an empty one; those that
take a log add a defect in that case.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

from glamm_jax import json_files
from glamm_jax.data.sources.defects import (
    BROKEN_ENTRY,
    BROKEN_TEXT,
    EMPTY_TEXT,
    LONE_SURROGATE,
    DefectLog,
    SourceError,
    quoted,
)

DECIMAL = re.compile(r"\s*[-+]?[0-9]{1,30}(\.[0-9]{0,30})?([eE][-+]?[0-9]{1,3})?\s*")
# Largest file of annotations that is read at once: those of GranD-f have more than a gigabyte.
MAX_BYTES = 1 << 34
# The fields of a JSON object. In a pickle not even the names are sure to be texts.
Fields = dict[Any, Any]


def read_json(path: Path) -> Any:
    """Read a file that a dataset cannot do without.

    Raises:
        SourceError: the file is missing or not JSON.
    """
    try:
        return json_files.read_json(path, MAX_BYTES)
    except json_files.JSONError as error:
        hint = ""
        if isinstance(error.__cause__, json.JSONDecodeError):
            hint = "; is the file complete? Compare its size with that of the original"
            if error.__cause__.msg == "Extra data":
                hint = "; one JSON value is expected; make a list of several: jq -s . FILE"
        raise SourceError(f"{json_problem(error)}{hint}") from error


def json_problem(error: json_files.JSONError) -> str:
    """Return the message of an error, with the column also where there is only one line."""
    cause = error.__cause__
    if isinstance(cause, json.JSONDecodeError) and "column" not in str(error):
        return f"{error} at column {cause.colno}"
    return str(error)


def as_text(value: Any, log: DefectLog, where: str) -> str:
    """Return a text that contains letters or digits; "" and a defect for anything else.

    Lone surrogates are replaced character by character, so spans stay valid.

    Args:
        value: from a file.
        log: for the defect.
        where: place of the value, for the defect.
    """
    if not isinstance(value, str) or not any(map(str.isalnum, value)):
        log.add(EMPTY_TEXT, f"{where}: {quoted(value)}")
        return ""
    if not LONE_SURROGATE.search(value):
        return value
    log.add(BROKEN_TEXT, f"{where}: contains a lone surrogate")
    return LONE_SURROGATE.sub("\ufffd", value)


def as_list(value: Any, log: DefectLog, where: str) -> list[Any]:
    """Return a list; an empty one for None, and an empty one and a defect for anything else.

    Args:
        value: from a file.
        log: for the defect.
        where: place of the value, for the defect.
    """
    if value is not None and not isinstance(value, list):
        log.add(BROKEN_ENTRY, f"{where}: {quoted(value)} is not a list")
    return value if isinstance(value, list) else []


def as_fields(value: Any, log: DefectLog, where: str) -> Fields:
    """Return the fields of a JSON object; no fields and a defect for anything else.

    Args:
        value: from a file.
        log: for the defect.
        where: place of the value, for the defect.
    """
    if isinstance(value, dict):
        return value
    log.add(BROKEN_ENTRY, f"{where}: {quoted(value)} is not an object")
    return {}


def as_numbers(value: Any, count: int) -> tuple[float, ...] | None:
    """Return a list of `count` finite numbers as floats; None for anything else.

    A number may be a text: some programs write "12.5".
    """
    if not isinstance(value, list | tuple) or len(value) != count:
        return None
    if not all(map(_is_number, value)):
        return None
    try:
        numbers = tuple(float(x) for x in value)
    except OverflowError:
        return None
    return numbers if all(math.isfinite(x) for x in numbers) else None


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return DECIMAL.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def as_whole_number(value: Any) -> int | None:
    """Return a whole number, written as 640, 640.0 or "640"; None for anything else."""
    numbers = as_numbers([value], 1)
    return int(numbers[0]) if numbers is not None and numbers[0].is_integer() else None


def is_set(value: Any) -> bool:
    """Return whether a flag is set; 0 may be written as "0", and false as "false"."""
    return bool(value) and str(value).strip().lower() not in ("0", "0.0", "false", "")


def as_id(value: Any) -> str | None:
    """Return an id, a whole number or a text, as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or value == "":
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else None
    try:
        return str(value)
    except ValueError:  # Python refuses to print integers of thousands of digits
        return None
