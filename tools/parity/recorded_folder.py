"""What the text and picture cases share: finding a part's files, and inputs that must be whole."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tools.parity.report import ArrayComparison, ComparisonReport, GoldenError, RecordedFile


def part_folder(folder: Path, part: str) -> Path:
    """`folder/part`.

    Raises: GoldenError when it is no folder.
    """
    path = folder / part
    if not path.is_dir():
        raise GoldenError(f"{path}: no such folder")
    return path


@contextmanager
def entry_errors(path: Path) -> Iterator[None]:
    """Turn a stumble over an entry of the wrong kind into one error that names the file.

    Raises: GoldenError.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise GoldenError(f"{path}: an entry has the wrong kind of value: {error}") from error


def report_unknown_files(
    report: ComparisonReport, part: str, folder: Path, known: Collection[str]
) -> None:
    """One failing row for each file that no case has read."""
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            name = f"{folder.name}/{path.name}"
            report.rows.append(
                ArrayComparison(part, name, "", "unknown", note="no case knows this file")
            )


def integer_input(recorded: RecordedFile, name: str) -> Any:
    """An input that counts something, as an integer array; a fraction in it is a failing row.

    Raises: GoldenError when it is not numeric at all.
    """
    try:
        value = np.asarray(recorded.get(name), np.float64)
    except (TypeError, ValueError) as error:
        raise GoldenError(f"{recorded.file}: {name} is not a number: {error}") from error
    whole = np.rint(value).astype(np.int64)
    if np.array_equal(whole, value):
        recorded.exclude(name, "input")
    else:
        recorded.compare(name, whole, "exact")
    return whole
