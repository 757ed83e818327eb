"""The parts of a golden folder and the comparison of all or some of them, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import jax

from tools.parity import (
    components,
    conversations,
    datasets,
    e2e,
    evaluation,
    grand,
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
    "grand": ("grand", grand.check),
}

# These take most of the time, and start first when several processes compare.
LONG_PARTS = ("e2e", "components", "pipeline")
# Inputs of other parts, and this repository's own presets, which are kept in the same folder.
NOT_COMPARED = ("fixtures", "configs", "experiments")


def list_parts(folder: Path) -> list[str]:
    """Return the parts that the folder has."""
    return [name for name in PARTS if _has_part(folder, name)]


def _has_part(folder: Path, name: str) -> bool:
    # The steps of GranD are also recorded as folders of their own, one for each random seed.
    return any(folder.glob(PARTS[name][0])) or (name == grand.PART and grand.is_recorded(folder))


def run_parts(
    folder: Path,
    only: Sequence[str] = (),
    num_processes: int = 1,
    on_done: Callable[[str, ComparisonReport], None] = lambda part, report: None,
) -> ComparisonReport:
    """Compare a golden folder.

    Args:
        folder: the golden folder.
        only: parts to compare; empty: all that the folder has.
        num_processes: number of parts that are compared at the same time.
        on_done: called with a part and its results after it was compared.

    Returns:
        The results in the order of the parts; absent or broken inputs are in `report.broken`.
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
    results: dict[str, ComparisonReport] = {}
    for name, result in _compare_all(folder, parts, num_processes):
        results[name] = result
        on_done(name, result)
    for name in parts:
        report.rows += results[name].rows
        report.broken += results[name].broken
    return report


def _compare_all(
    folder: Path, parts: Sequence[str], num_processes: int
) -> Iterator[tuple[str, ComparisonReport]]:
    """Yield every part with its results, as soon as it was compared."""
    if min(num_processes, len(parts)) <= 1:
        yield from ((name, _compare_part(folder, name)) for name in parts)
        return
    # A fork would copy the threads' locks of a running JAX.
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        in_order = sorted(parts, key=lambda name: name not in LONG_PARTS)
        futures = {pool.submit(_compare_part, folder, name): name for name in in_order}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _compare_part(folder: Path, name: str) -> ComparisonReport:
    report = ComparisonReport()
    with report.guard(f"{folder}: part {name}"):
        if name not in PARTS:
            raise GoldenError(f"no part {name!r}; choose from {', '.join(PARTS)}")
        pattern, check = PARTS[name]
        if not _has_part(folder, name):
            raise GoldenError(f"{folder}: part {name!r} is absent (no {pattern} in it)")
        # On accelerators float32 products would otherwise lose bits.
        with jax.default_matmul_precision("highest"):
            check(folder, report)
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
