"""Temporary files whose lines become the elements of JSON lists, or wait for class numbers.

Numbers of classes are those of the sorted names, so they are only certain at the end of the images.
Until then a line has the number of its class in the order of appearance.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from glamm_jax.grand.export.output import json_text


class ClassNames:
    """Numbers of class names: by appearance first, by the order of the names at the end."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of a name in the order of appearance."""
        return self._numbers.setdefault(name, len(self._numbers))

    def names(self) -> list[str]:
        """Return all names in their order."""
        return sorted(self._numbers)

    def final_numbers(self) -> list[int]:
        """Return the position in `names` of each name, in the order of appearance."""
        positions = {name: i for i, name in enumerate(self.names())}
        return [positions[name] for name in self._numbers]


class LineFile:
    """Lines in a temporary file, which the system removes with the process."""

    def __init__(self, folder: Path):
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by `close`
        self._file = io.TextIOWrapper(file, encoding="utf-8", newline="\n")
        self.num_lines = 0

    def add(self, line: str) -> None:
        """Append a line, which must not contain a line break."""
        self._file.write(line + "\n")
        self.num_lines += 1

    def lines(self) -> Iterator[str]:
        """Yield all lines without their line breaks."""
        self._file.seek(0)
        for line in self._file:
            yield line[:-1]
        self._file.seek(0, io.SEEK_END)

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def __enter__(self) -> LineFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def write_json_lists(path: Path, fields: dict[str, Any], lists: dict[str, Iterable[str]]) -> None:
    """Write a JSON object some of whose fields are long lists.

    Args:
        path: of the file.
        fields: those that fit into memory.
        lists: name -> elements as JSON texts.
    """
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(json_text(fields)[:-1])
        for name, elements in lists.items():
            separator = "[\n"
            file.write(f",\n{json_text(name)}:")
            for element in elements:
                file.write(separator + element)
                separator = ",\n"
            file.write("]" if separator == ",\n" else "[]")
        file.write("}\n")
