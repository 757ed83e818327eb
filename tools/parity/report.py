"""Comparison with recorded files: one result for each array, and no array may be left out.

A check opens a `RecordedFile`, takes inputs from it, and compares or excludes every other array.
When the file is closed, an array that was neither read as input, compared nor excluded becomes a
failing result with the verdict "unknown".
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.errors import GLaMMError
from tools.parity.difference import SAMPLED, difference, sampled_difference
from tools.parity.tolerances import TOLERANCES, Tolerance


class GoldenError(GLaMMError):
    """A golden folder, file or entry that is absent or cannot be read. The message names it."""


@dataclass(frozen=True)
class ArrayComparison:
    """The result for one recorded array. The fields are the keys of the JSON report.

    Attributes:
        part: part of the golden folder.
        file: folder and name of the recorded file.
        name: of the array in the file.
        verdict: "equal", "differs", "excluded" or "unknown" (no check handles the array).
        error: the difference, in the measure of its tolerance; None: not a number.
        tolerance: largest error that counts as equal.
        aim: the error that this implementation is expected to reach.
        note: the reason of an exclusion, or what differs.
    """

    part: str
    file: str
    name: str
    verdict: str
    error: float | None = None
    tolerance: float | None = None
    aim: float | None = None
    note: str = ""

    @property
    def failed(self) -> bool:
        return self.verdict in ("differs", "unknown")


@dataclass
class ComparisonReport:
    """All results of a comparison.

    Attributes:
        rows: one result for each recorded array.
        broken: messages about parts, files and entries that are absent or cannot be read.
    """

    rows: list[ArrayComparison] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[ArrayComparison]:
        return [row for row in self.rows if row.failed]

    @property
    def exit_code(self) -> int:
        """0: all equal; 1: an array differs or is unknown; 2: an input is absent or broken."""
        return 2 if self.broken else 1 if self.failures else 0

    @contextmanager
    def guard(self, source: str) -> Iterator[None]:
        """Add an error of the enclosed code to `broken`, with the name `source`, and continue."""
        try:
            yield
        except GoldenError as error:
            self.broken.append(str(error))
        except Exception as error:
            # A golden folder may have any content. If the fault is in this code, the trace helps.
            traceback.print_exc()
            self.broken.append(f"{source}: {type(error).__name__}: {error}")

    def to_json(self) -> dict[str, Any]:
        """Return the content of the JSON report."""
        return {
            "exit_code": self.exit_code,
            "broken": self.broken,
            "arrays": [asdict(row) for row in self.rows],
        }


class RecordedFile:
    """One recorded file: provides inputs, compares outputs, and tracks which arrays are handled.

    Example:
        with RecordedFile.open(report, "e2e_tiny1", path) as recorded:
            x = recorded.input("in/x")
            recorded.compare("out", f(x), "module")
            recorded.exclude("note", "prose")

    Attributes:
        report: receives the results.
        part: part of the golden folder.
        file: folder and name of the file.
        values: everything stored, by key; a sampled array has four keys (`difference.SAMPLED`).
        names: names of the arrays.
        handled: names that were compared or excluded.
    """

    def __init__(self, report: ComparisonReport, part: str, file: str, values: Mapping[str, Any]):
        self.report, self.part, self.file = report, part, file
        self.values = dict(values)
        self.names = tuple(dict.fromkeys(_base_name(name) for name in self.values))
        self.handled: set[str] = set()

    @classmethod
    def open(cls, report: ComparisonReport, part: str, path: Path) -> RecordedFile:
        """Read an .npz or .json file.

        Args:
            report: receives the results.
            part: part of the golden folder.
            path: the file.

        Raises:
            GoldenError: the file is absent or cannot be read.
        """
        if not path.is_file():
            raise GoldenError(f"{path}: no such file")
        try:
            if path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as archive:
                    values = {name: archive[name] for name in archive.files}
            else:
                values = flatten_json(json.loads(path.read_text(encoding="utf-8")))
        except Exception as error:
            raise GoldenError(f"{path}: cannot be read: {error}") from error
        return cls(report, part, f"{path.parent.name}/{path.name}", values)

    def __enter__(self) -> RecordedFile:
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            for name in self.names:
                if name not in self.handled:
                    self._add(name, "unknown", note="no check handles this array")

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(self, name: str) -> Any:
        """Return a stored value; the array still has to be compared or excluded.

        Raises:
            GoldenError: the entry is missing, or only sampled.
        """
        if name not in self.values:
            raise GoldenError(f"{self.file}: entry {name!r} is missing")
        return self.values[name]

    def input(self, name: str, note: str = "input") -> Any:
        """Return a stored value that is an input of the comparison, and exclude it."""
        value = self.get(name)
        self.exclude(name, note)
        return value

    def exclude(self, name: str, reason: str) -> None:
        """Exclude an array from the comparison for a reason. Absent names are ignored."""
        if name in self.names and name not in self.handled:
            self._add(name, "excluded", note=reason)

    def exclude_prefix(self, prefix: str, reason: str) -> None:
        """Exclude every array whose name starts with `prefix` and that is not handled yet."""
        for name in self.names:
            if name.startswith(prefix):
                self.exclude(name, reason)

    def names_under(self, prefix: str) -> list[str]:
        return [name for name in self.names if name.startswith(prefix)]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of the complete array, also if only samples of it are stored."""
        if f"{name}__shape" in self.values:
            return tuple(int(n) for n in np.asarray(self.values[f"{name}__shape"]).reshape(-1))
        return np.shape(self.get(name))

    def compare(self, name: str, actual: Any, kind: str, note: str = "") -> None:
        """Compare a recorded array with the computed one.

        Args:
            name: of the recorded array; it may be complete or sampled, numbers or text.
            actual: the computed array, complete and in the recorded layout.
            kind: key of `TOLERANCES`.
            note: stored with the result if nothing differs.
        """
        tolerance = TOLERANCES[kind]
        if f"{name}__val" in self.values:
            sampled = {suffix: self.get(name + suffix) for suffix in SAMPLED}
            error, problem = sampled_difference(sampled, np.asarray(actual), tolerance)
            if name in self.values:
                problem = "stored both completely and sampled"
        else:
            error, problem = difference(self.get(name), actual, tolerance)
        ok = problem is None and error is not None and error <= tolerance.limit
        self._add(name, "equal" if ok else "differs", error, tolerance, problem or note)

    def record_error(self, name: str, error: float, kind: str, note: str = "") -> None:
        """Add the result of an array whose error the check has computed itself.

        Args:
            name: of the recorded array.
            error: in the measure of the tolerance.
            kind: key of `TOLERANCES`.
            note: stored with the result.
        """
        tolerance = TOLERANCES[kind]
        ok = error <= tolerance.limit
        self._add(name, "equal" if ok else "differs", error, tolerance, note)

    def _add(
        self,
        name: str,
        verdict: str,
        error: float | None = None,
        tolerance: Tolerance | None = None,
        note: str = "",
    ) -> None:
        limit, aim = (tolerance.limit, tolerance.aim) if tolerance else (None, None)
        self.handled.add(name)
        self.report.rows.append(
            ArrayComparison(self.part, self.file, name, verdict, error, limit, aim, note)
        )


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        GoldenError: the file is absent or cannot be read.
    """
    if not path.is_file():
        raise GoldenError(f"{path}: no such file")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise GoldenError(f"{path}: cannot be read: {error}") from error


def _base_name(name: str) -> str:
    for suffix in SAMPLED:
        if name.endswith(suffix):
            return name[: -len(suffix)]
    return name


def flatten_json(value: Any, path: str = "") -> dict[str, Any]:
    """Return {dotted path: leaf} of nested dictionaries and lists of dictionaries."""
    if isinstance(value, dict) and value:
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for key, item in items for name, leaf in flatten_json(item, key).items()}
