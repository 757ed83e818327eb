"""Copies of a golden folder with one value changed, for negative controls."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tools.parity.report import ComparisonReport

Check = Callable[[Path, ComparisonReport], None]


def copy_parts(goldens: Path, folder: Path, *parts: str) -> Path:
    """Make a writable copy of some parts."""
    for part in parts:
        shutil.copytree(goldens / part, folder / part)
    return folder


def change_json(path: Path, keys: tuple[str | int, ...]) -> None:
    """Change the number at `keys` by 1e-2, or add a letter to the text there."""
    value = json.loads(path.read_text(encoding="utf-8"))
    parent: Any = value
    for key in keys[:-1]:
        parent = parent[key]
    old = parent[keys[-1]]
    parent[keys[-1]] = old + "x" if isinstance(old, str) else old + 1e-2
    path.write_text(json.dumps(value), encoding="utf-8")


def change_array(path: Path, name: str) -> None:
    """Change one number in the middle of an array by 1e-2, or by 1 in an integer array."""
    with np.load(path) as archive:
        arrays = {key: archive[key] for key in archive.files}
    changed = arrays[name].copy()
    changed.flat[changed.size // 2] += 1e-2 if changed.dtype.kind == "f" else 1
    np.savez(path, **{**arrays, name: changed})


def run(check: Check, folder: Path) -> ComparisonReport:
    """Return the report of one part."""
    report = ComparisonReport()
    check(folder, report)
    return report


def failed_names(check: Check, folder: Path) -> set[str]:
    """Return the names of the arrays that fail in a changed folder."""
    report = run(check, folder)
    assert report.exit_code == (1 if report.failures else 0)
    return {row.name for row in report.failures}
