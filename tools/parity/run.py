"""All parts of a golden folder, in order: which exist, which are asked for, what they say."""

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

# part -> (what of it lies in the folder, its check)
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


# Inputs of other parts, and our own presets beside the golden numbers of this repository.
NOT_COMPARED = ("fixtures", "configs", "experiments")


def list_parts(folder: Path) -> list[str]:
    """Parts that the folder holds."""
    return [name for name, (pattern, _) in PARTS.items() if any(folder.glob(pattern))]


def run_parts(
    folder: Path,
    only: Sequence[str] = (),
    *,
    on_start: Callable[[str], None] = lambda part: None,
    on_done: Callable[[str, ComparisonReport], None] = lambda part, report: None,
) -> ComparisonReport:
    """Compare a folder, or some parts of it. What is absent or broken lands in `report.broken`."""
    report = ComparisonReport()
    if not folder.is_dir():
        report.broken.append(f"{folder}: no such folder")
        return report
    wanted = list(dict.fromkeys(only)) or list_parts(folder)
    if not wanted:
        report.broken.append(f"{folder}: holds no part of a golden folder that can be compared")
    if not only:
        _mention_the_rest(folder, report)
    for name in wanted:
        with report.guard(f"{folder}: part {name}"):
            check = _check_named(folder, name)
            on_start(name)
            # On accelerators float32 products would otherwise lose bits.
            with jax.default_matmul_precision("highest"):
                check(folder, report)
        on_done(name, report)
    return report


def _mention_the_rest(folder: Path, report: ComparisonReport) -> None:
    """Failing rows for what is compared by nothing: parts that nobody knows."""
    patterns = [pattern for pattern, _ in PARTS.values()]
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if any(part.match(pattern) for pattern in patterns) or part.name in NOT_COMPARED:
            continue
        for path in sorted(part.rglob("*")):
            if path.suffix in (".json", ".npz"):
                with report.guard(str(path)), RecordedFile.open(report, part.name, path):
                    pass


def _check_named(folder: Path, name: str) -> Check:
    """The check of a part that the folder must hold."""
    if name not in PARTS:
        raise GoldenError(f"no part {name!r}; choose from {', '.join(PARTS)}")
    pattern, check = PARTS[name]
    if not any(folder.glob(pattern)):
        raise GoldenError(f"{folder}: part {name!r} is absent (no {pattern} in it)")
    return check
