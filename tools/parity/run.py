"""The parts of a golden folder and the comparison of all or some of them, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from tools.parity import (
    components,
    conversations,
    datasets,
    e2e,
    evaluation,
    manifest,
    pipeline,
    preprocessing,
    tokenizer,
)
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile

Check = Callable[[Path, ComparisonReport], None]

# part -> (pattern of its folders, its check)
PARTS: dict[str, tuple[str, Check]] = {
    "preprocessing": ("preprocessing", preprocessing.check),
    "tokenizer": ("tokenizer", tokenizer.check),
    "conversations": ("conversations", conversations.check),
    "e2e": ("e2e_*", e2e.check),
    "components": ("components", components.check),
    "manifest": ("manifest", manifest.check),
    "datasets": ("datasets", datasets.check),
    "pipeline": ("pipeline", pipeline.check),
    "evaluation": ("evaluation", evaluation.check),
}

# Inputs of other parts, and this repository's own presets, which are kept in the same folder.
NOT_COMPARED = ("fixtures", "configs", "experiments")


def list_parts(folder: Path) -> list[str]:
    """Return the parts that the folder has."""
    return [name for name, (pattern, _) in PARTS.items() if any(folder.glob(pattern))]


def run_parts(
    folder: Path,
    only: Sequence[str] = (),
    *,
    on_start: Callable[[str], None] = lambda part: None,
    on_done: Callable[[str, ComparisonReport], None] = lambda part, report: None,
) -> ComparisonReport:
    """Compare a golden folder.

    Args:
        folder: the golden folder.
        only: parts to compare; empty: all that the folder has.
        on_start: called with a part before it is compared.
        on_done: called with a part and the report so far after the part was compared.

    Returns:
        The results; absent or broken inputs are in `report.broken`.
    """
    report = ComparisonReport()
    if not folder.is_dir():
        report.broken.append(f"{folder}: no such folder")
        return report
    parts = list(dict.fromkeys(only)) or list_parts(folder)
    if not parts:
        report.broken.append(f"{folder}: holds no part of a golden folder that can be compared")
    if not only:
        _report_unknown_parts(folder, report)
    for name in parts:
        with report.guard(f"{folder}: part {name}"):
            if name not in PARTS:
                raise GoldenError(f"no part {name!r}; choose from {', '.join(PARTS)}")
            pattern, check = PARTS[name]
            if not any(folder.glob(pattern)):
                raise GoldenError(f"{folder}: part {name!r} is absent (no {pattern} in it)")
            on_start(name)
            # On accelerators float32 products would otherwise lose bits.
            with jax.default_matmul_precision("highest"):
                check(folder, report)
        on_done(name, report)
    return report


def _report_unknown_parts(folder: Path, report: ComparisonReport) -> None:
    """Add a failing result for every array in a folder that is no known part."""
    patterns = [pattern for pattern, _ in PARTS.values()]
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if any(part.match(pattern) for pattern in patterns) or part.name in NOT_COMPARED:
            continue
        for path in sorted(part.rglob("*")):
            if path.suffix in (".json", ".npz"):
                with report.guard(str(path)), RecordedFile.open(report, part.name, path):
                    pass  # on closing, every array in it is unknown
