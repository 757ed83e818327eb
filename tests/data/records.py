"""Records for tests: any that is possible, and a source of plain ones in memory."""

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

# Whatever UTF-8 can hold: every plane, no halves of characters.
texts = st.text(st.characters(codec="utf-8"), max_size=30)
numbers = st.integers(-(2**63), 2**63 - 1)
# Not-a-number is not equal to itself; its own test looks at it.
boxes = st.tuples(*[st.floats(allow_nan=False)] * 4)
runs = st.none() | st.binary(min_size=1, max_size=20)


# What `built` makes any record of, also one that `check_record` would refuse. The parts are plain:
# a dataclass checks its types by random samples, which a strategy may not draw.
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


def built(parts: Any) -> Record:
    """A record of `parts`."""
    *fields, regions, annotations = parts
    said = (
        Annotation(task, text, tuple(Link(*link) for link in links), tuple(turns))
        for task, text, links, turns in annotations
    )
    return Record(*fields, tuple(Region(*region) for region in regions), tuple(said))


def jpeg(height: int = 6, width: int = 8, color: Any = "red") -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), color).save(stream, "JPEG")
    return stream.getvalue()


def plain_record(name: str, split: str = "train") -> Record:
    """A picture of its own colour with a caption, a box and a question."""
    said = (
        Annotation("caption", f"This is {name}."),
        Annotation("region", "a corner", (Link(0),)),
        Annotation("vqa", turns=("What is it?", f"It is {name}.")),
    )
    color = tuple(name.encode()[-3:].rjust(3))
    image = jpeg(color=color)
    return Record(image, name, "plain", split, 6, 8, (Region((0.0, 0.0, 2.5, 3.0)),), said)


class PlainSource:
    """Pictures p0, p1, ... in memory; `oddities` are found instead of, or raised for, some."""

    name = "plain"

    def __init__(self, keys: Sequence[str], split: str, oddities: dict[str, Any]):
        self.keys, self._split, self._oddities = keys, split, oddities

    def read(self, key: str) -> ReadResult:
        """The picture of a key."""
        odd = self._oddities.get(key)
        if isinstance(odd, Exception):
            raise odd
        if isinstance(odd, Record):
            return ReadResult(odd, (Defect("odd", key),))
        return ReadResult(plain_record(key, self._split))


def plain(num: int = 20, reverse: bool = False, **oddities: Any) -> Any:
    """What makes a source of so many pictures."""
    keys = [f"p{i}" for i in range(num)]

    def make_source(root: Path, split: str) -> DatasetSource:
        return PlainSource(keys[::-1] if reverse else keys, split, oddities)

    return make_source
