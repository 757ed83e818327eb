"""Files of one part of a golden folder: lookup, errors that name them, and integer inputs."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tools.parity.report import ArrayComparison, ComparisonReport, GoldenError, RecordedFile


def part_folder(folder: Path, part: str) -> Path:
    """Return `folder/part`.

    Raises:
        GoldenError: there is no such folder.
    """
    path = folder / part
    if not path.is_dir():
        raise GoldenError(f"{path}: no such folder")
    return path


@contextmanager
def entry_errors(path: Path) -> Iterator[None]:
    """Turn an exception that an entry of the wrong type causes into an error that names the file.

    Raises:
        GoldenError: the enclosed code failed on an entry.
    """
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise GoldenError(f"{path}: an entry has a value of the wrong type: {error}") from error


def report_unknown_files(
    report: ComparisonReport, part: str, folder: Path, expected: Collection[str]
) -> None:
    """Add a failing result for each file of a folder that no check reads.

    Args:
        report: receives the results.
        part: part of the golden folder.
        folder: the folder.
        expected: names of the files that are read.
    """
    for path in sorted(folder.iterdir()):
        if path.name not in expected:
            name = f"{folder.name}/{path.name}"
            report.rows.append(
                ArrayComparison(part, name, "", "unknown", note="no check reads this file")
            )


def integer_input(recorded: RecordedFile, name: str) -> Any:
    """Return an input as an integer array and exclude it; a fraction in it is a difference.

    Raises:
        GoldenError: the entry is not numeric.
    """
    try:
        value = np.asarray(recorded.get(name), np.float64)
    except (TypeError, ValueError) as error:
        raise GoldenError(f"{recorded.file}: {name} is not a number: {error}") from error
    integers = np.rint(value).astype(np.int64)
    if np.array_equal(integers, value):
        recorded.exclude(name, "input")
    else:
        recorded.compare(name, integers, "exact")
    return integers
