"""What a comparison says: one row an array, and nothing recorded may go unmentioned.

A case opens a `Recorded` file, takes inputs from it, and compares or excludes every other name.
When the file is closed, a name nobody touched becomes a failing row: an array that nobody knows.
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
    """A golden folder, file or entry is absent or broken. Says which."""


@dataclass(frozen=True)
class ArrayComparison:
    """The verdict on one recorded array: equal, differs, excluded or unknown."""

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
    """All rows of a run, and what could not be read at all."""

    rows: list[ArrayComparison] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @property
    def failures(self) -> list[ArrayComparison]:
        return [row for row in self.rows if row.failed]

    @property
    def exit_code(self) -> int:
        """0 equal, 1 something differs or is unknown, 2 something absent or broken."""
        return 2 if self.broken else 1 if self.failures else 0

    @contextmanager
    def guard(self, what: str) -> Iterator[None]:
        """Go on behind something absent or broken: it lands in `broken`, with its name."""
        try:
            yield
        except GoldenError as error:
            self.broken.append(str(error))
        except Exception as error:
            # A folder may hold anything; where our own code is at fault, the trace helps.
            traceback.print_exc()
            self.broken.append(f"{what}: {type(error).__name__}: {error}")

    def to_json(self) -> dict[str, Any]:
        return {
            "exit_code": self.exit_code,
            "broken": self.broken,
            "arrays": [asdict(row) for row in self.rows],
        }


class RecordedFile:
    """One recorded file: hands out its inputs, compares its outputs, and remembers both.

    with Recorded.open(report, "e2e_tiny1", path) as recorded:
        x = recorded.input("in/x")
        recorded.compare("out", f(x), "module")
        recorded.exclude("note", "prose")
    """

    def __init__(self, report: ComparisonReport, part: str, file: str, values: Mapping[str, Any]):
        self.report, self.part, self.file = report, part, file
        self.values = dict(values)
        self.names = tuple(dict.fromkeys(_base_name(name) for name in self.values))
        self.handled: set[str] = set()

    @classmethod
    def open(cls, report: ComparisonReport, part: str, path: Path) -> RecordedFile:
        """Read an .npz or .json file.

        Raises: GoldenError naming the file when it is absent or cannot be read.
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
                    self._add(name, "unknown", note="no case knows this array")

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def get(self, name: str) -> Any:
        """A stored value, without settling it.

        Raises: GoldenError naming file and entry when it is not there or only sampled.
        """
        if name not in self.values:
            raise GoldenError(f"{self.file}: entry {name!r} is missing")
        return self.values[name]

    def input(self, name: str, note: str = "input") -> Any:
        """A stored value that the case feeds to the model; settled as excluded."""
        value = self.get(name)
        self.exclude(name, note)
        return value

    def exclude(self, name: str, reason: str) -> None:
        """Settle an array without comparing it, saying why. Absent names are ignored."""
        if name in self.names and name not in self.handled:
            self._add(name, "excluded", note=reason)

    def exclude_prefix(self, prefix: str, reason: str) -> None:
        """Exclude every name that starts so and is not settled yet."""
        for name in self.names:
            if name.startswith(prefix):
                self.exclude(name, reason)

    def names_under(self, prefix: str) -> list[str]:
        return [name for name in self.names if name.startswith(prefix)]

    def shape(self, name: str) -> tuple[int, ...]:
        """The whole array's shape, also of a sampled one."""
        if f"{name}__shape" in self.values:
            return tuple(int(n) for n in np.asarray(self.values[f"{name}__shape"]).reshape(-1))
        return np.shape(self.get(name))

    def compare(self, name: str, actual: Any, kind: str, note: str = "") -> None:
        """Compare an array, whole or sampled, numbers or text, with ours in the same layout."""
        tolerance = TOLERANCES[kind]
        if f"{name}__val" in self.values:
            sampled = {suffix: self.get(name + suffix) for suffix in SAMPLED}
            error, problem = sampled_difference(sampled, np.asarray(actual), tolerance)
            if name in self.values:
                problem = "stored both whole and sampled"
        else:
            error, problem = difference(self.get(name), actual, tolerance)
        ok = problem is None and error is not None and error <= tolerance.limit
        self._add(name, "equal" if ok else "differs", error, tolerance, problem or note)

    def record_error(self, name: str, error: float, kind: str, note: str = "") -> None:
        """Settle an array whose error the case measured itself, in the kind's own measure."""
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
    """A JSON file. Raises: GoldenError naming it when it is absent or cannot be read."""
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
    """{dotted path: leaf}. Dictionaries and lists of dictionaries are descended."""
    if isinstance(value, dict) and value:
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        items = [(f"{path}[{i}]", item) for i, item in enumerate(value)]
    else:
        return {path: value}
    return {name: leaf for key, item in items for name, leaf in flatten_json(item, key).items()}
