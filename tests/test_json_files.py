"""JSON of unknown origin: encodings, depth, size, types."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.json_files import JSONError, JSONObject, parse_json, read_json, read_object

OBJECT = {
    "text": "a",
    "count": 3,
    "whole": 3.0,
    "ratio": 0.5,
    "flag": True,
    "list": [1],
    "inner": {"x": 1},
    "null": None,
    "huge": 10**400,
    "inf": float("inf"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_is_read_with_and_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"name": "Stra\u00dfe"}', encoding=encoding)
    assert read_json(path) == {"name": "Stra\u00dfe"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"a": "\u4e2d"}'.encode("gb18030"), "byte 7 is not UTF-8; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        ('{"a": 1}'.encode("utf-32"), "UTF-32 text; save it as UTF-8"),
        (b'{"a": 1', "not valid JSON: Expecting ',' delimiter"),
        (b'{\n"a": 1\n"b"}', "not valid JSON: line 3, column 1"),
        (b"", "not valid JSON: Expecting value"),
        (b"[" * 100_000, "nested too deeply"),
        (b"1" * 5000, "not valid JSON"),
    ],
)
def test_what_is_not_json_is_one_error_with_the_file(
    tmp_path: Path, data: bytes, message: str
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(data)
    with pytest.raises(JSONError, match=re.escape(f"{path}: ") + ".*" + message):
        read_json(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(JSONError, match="no such file"):
        read_json(tmp_path / "nothing")
    with pytest.raises(JSONError, match="not a file"):
        read_json(tmp_path)
    with pytest.raises(JSONError, match=r"not a path|no such file"):
        read_json(tmp_path / "a\0b")
    path = tmp_path / "large.json"
    path.write_text("[1, 2, 3]")
    with pytest.raises(JSONError, match="9 bytes; at most 8 are read"):
        read_json(path, max_bytes=8)
    with pytest.raises(JSONError, match="is not an object"):
        read_object(path)


def test_fields_of_the_right_type_are_returned() -> None:
    value = JSONObject(OBJECT, "f")
    assert value.text("text") == "a"
    assert (value.integer("count"), value.integer("whole")) == (3, 3)
    assert value.number("ratio") == 0.5
    assert value.boolean("flag") is True
    assert value.array("list") == [1]
    assert value.object("inner").integer("x") == 1
    assert value.integer("null", None) is None
    assert value.text("missing", "default") == "default"
    assert value.objects("missing") == []
    assert "null" not in value
    assert "text" in value


@pytest.mark.parametrize(
    ("method", "name", "message"),
    [
        ("text", "count", "f: count = 3 is not a text"),
        ("integer", "ratio", "f: ratio = 0.5 is not a whole number"),
        ("integer", "flag", "f: flag = True is not a whole number"),
        ("number", "text", "f: text = 'a' is not a number"),
        ("number", "huge", "f: huge = .* is not finite"),
        ("number", "inf", "f: inf = inf is not finite"),
        ("boolean", "count", "f: count = 3 is not true or false"),
        ("array", "text", "f: text = 'a' is not a list"),
        ("object", "list", r"f: list: \[1\] is not an object"),
        ("objects", "list", r"f: list\[0\]: 1 is not an object"),
        ("text", "null", "f: no field 'null'"),
    ],
)
def test_other_types_are_refused_by_name(method: str, name: str, message: str) -> None:
    with pytest.raises(JSONError, match=message):
        getattr(JSONObject(OBJECT, "f"), method)(name)


def test_ranges_are_checked() -> None:
    with pytest.raises(JSONError, match="count = 3: at least 4"):
        JSONObject(OBJECT, "f").integer("count", minimum=4)
    with pytest.raises(JSONError, match=r"ratio = 0.5: at most 0.1"):
        JSONObject(OBJECT, "f").number("ratio", maximum=0.1)


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda text: json.dumps(text).encode()))
def test_any_bytes_are_a_value_or_a_json_error(data: bytes) -> None:
    try:
        value = parse_json(data, "f")
    except JSONError:
        return
    with pytest.raises(JSONError):
        JSONObject([value], "f")
