"""Records for tests: arbitrary ones for hypothesis, and a source of plain ones in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from glamm_jax.data.record import (
    TASKS,
    Annotation,
    DatasetSource,
    Defect,
    Link,
    ReadResult,
    Record,
    Region,
)

# Every text that UTF-8 can encode: all planes, no surrogates.
texts = st.text(st.characters(codec="utf-8"), max_size=30)
numbers = st.integers(-(2**63), 2**63 - 1)
# NaN is not equal to itself; it has a test of its own.
boxes = st.tuples(*[st.floats(allow_nan=False)] * 4)
runs = st.none() | st.binary(min_size=1, max_size=20)


# The arguments of arbitrary records, also of those that `check_record` refuses. They are plain
# values: jaxtyping checks a dataclass by random samples, which a strategy may not draw.
parts = st.tuples(
    *(st.binary(max_size=50), texts, texts, texts, numbers, numbers),
    st.lists(st.tuples(st.none() | boxes, runs, runs), max_size=4),
    st.lists(
        st.tuples(
            st.sampled_from(TASKS),
            texts,
            st.lists(st.tuples(numbers, numbers, numbers), max_size=3),
            st.lists(texts, max_size=4),
        ),
        max_size=4,
    ),
)


def build_record(parts: Any) -> Record:
    """Build a record of `parts`."""
    *fields, regions, annotations = parts
    items = (
        Annotation(task, text, tuple(Link(*link) for link in links), tuple(turns))
        for task, text, links, turns in annotations
    )
    return Record(*fields, tuple(Region(*region) for region in regions), tuple(items))


def jpeg(height: int = 6, width: int = 8, color: Any = "red") -> bytes:
    """The bytes of a JPEG file."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), color).save(stream, "JPEG")
    return stream.getvalue()


def plain_record(name: str, split: str = "train") -> Record:
    """A record of an image in a colour of its own, with a caption, a box and a question."""
    annotations = (
        Annotation("caption", f"This is {name}."),
        Annotation("region", "a corner", (Link(0),)),
        Annotation("vqa", turns=("What is it?", f"It is {name}.")),
    )
    color = tuple(name.encode()[-3:].rjust(3))
    image, regions = jpeg(color=color), (Region((0.0, 0.0, 2.5, 3.0)),)
    return Record(image, name, "plain", split, 6, 8, regions, annotations)


class PlainSource:
    """Records of images p0, p1, ... in memory.

    replacements: key -> a record to read instead, or an exception to raise.
    """

    name = "plain"

    def __init__(self, keys: Sequence[str], split: str, replacements: dict[str, Any]):
        self.keys, self._split, self._replacements = keys, split, replacements

    def read(self, key: str) -> ReadResult:
        """Read the record of a key."""
        replacement = self._replacements.get(key)
        if isinstance(replacement, Exception):
            raise replacement
        if isinstance(replacement, Record):
            return ReadResult(replacement, (Defect("replaced", key),))
        return ReadResult(plain_record(key, self._split))


def plain(num: int = 20, reverse: bool = False, **replacements: Any) -> Any:
    """A function that opens a `PlainSource` of so many images."""
    keys = [f"p{i}" for i in range(num)]

    def make_source(root: Path, split: str) -> DatasetSource:
        return PlainSource(keys[::-1] if reverse else keys, split, replacements)

    return make_source
