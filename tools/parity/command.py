"""Comparison of this implementation with numbers recorded from the original, array by array.

DIR is a golden folder: some of `manifest components e2e_* preprocessing tokenizer conversations
datasets pipeline evaluation`, each with the `info.json` that describes it. Every recorded array is
compared, or excluded with a reason; an array that no check handles is a failure.

A printed line shows the verdict, then:

  error   largest absolute difference over the array's standard deviation, or another measure
          (`tools/parity/tolerances.py`)
  limit   the tolerance; above it the array differs
  aim     the error that this implementation is expected to reach

Exit status: 0: all equal; 1: an array differs or is unknown; 2: the folder, a file or a named part
is absent or broken.

  python -m convert parity tests/goldens
  python -m convert parity ../shared/golden --only components,e2e --json parity.json
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from glamm_jax.files import write_atomic
from tools.parity.report import ArrayComparison, ComparisonReport
from tools.parity.run import run_parts


def compare(
    folder: Path,
    only: Sequence[str],
    json_file: Path | None,
    *,
    show_excluded: bool,
    num_processes: int = 1,
) -> int:
    """Compare a golden folder, print every verdict, and write a JSON report if requested.

    Args:
        folder: the golden folder.
        only: parts to compare; empty: all that the folder has.
        json_file: file to write; None: none.
        show_excluded: also print the arrays that are excluded, with the reason.
        num_processes: number of parts that are compared at the same time.

    Returns:
        The exit status: 0: all equal; 1: an array differs or is unknown; 2: broken input.
    """
    if json_file is not None and not json_file.resolve().parent.is_dir():
        print(f"broken: --json {json_file}: no such folder", file=sys.stderr)
        return 2

    def show(part: str, report: ComparisonReport) -> None:
        print(f"\n{part}")
        print_rows([row for row in report.rows if show_excluded or row.verdict != "excluded"])
        print_summary(part, report.rows)

    print(f"{folder}: comparing; minutes for a complete golden folder", flush=True)
    report = run_parts(folder, only, num_processes, show)
    for message in report.broken:
        print(f"broken: {message}", file=sys.stderr)
    for row in report.failures:
        print(f"FAILED {row.file} {row.name}: {row.verdict} {row.note}".rstrip(), file=sys.stderr)
    print_summary("all", report.rows)
    if json_file is not None:
        write_json(report, json_file)
    return report.exit_code


def print_rows(rows: list[ArrayComparison]) -> None:
    """Print one line for each array."""
    for row in rows:
        error = "" if row.error is None else f"{row.error:.1e}"
        limit = "" if row.tolerance is None else f"{row.tolerance:.0e}"
        aim = "" if row.aim is None else f"{row.aim:.0e}"
        where = f"{row.file}:{row.name}"
        print(f"{row.verdict:8} {error:>8} {limit:>6} {aim:>6}  {where}  {row.note}".rstrip())


def print_summary(part: str, rows: list[ArrayComparison]) -> None:
    """Print the number of arrays by verdict, and how many of those compared reach their aim."""
    counts = Counter(row.verdict for row in rows)
    compared = [
        (row.error, row.aim) for row in rows if row.error is not None and row.aim is not None
    ]
    reached = sum(error <= aim for error, aim in compared)
    text = ", ".join(f"{counts[verdict]} {verdict}" for verdict in sorted(counts)) or "nothing"
    print(f"{part}: {text}; {reached} of {len(compared)} compared reach their aim", flush=True)


def write_json(report: ComparisonReport, path: Path) -> None:
    """Write the JSON report, under a temporary name first."""
    write_atomic(path, json.dumps(report.to_json(), indent=1) + "\n")
