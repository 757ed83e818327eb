"""Compare the results of two runs of a benchmark, figure by figure.

examples:
  python -m bench.compare bench/results/annotation.json out/annotation.json
  python -m bench.compare before.json after.json --only seconds --smallest 0.05

Every number that both files have under the same path is a row: its value in A and in B, and B / A.
What is only in one of them, and how the machines differ, is said below the table: ratios of figures
from different machines, or from one that other programs use, say little.

Exit status: 0 compared; 2 a file cannot be read, or they have no figure in common.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.measure import table
from glamm_jax.cli.program import printable
from glamm_jax.json_files import JSONError, read_json

MACHINE = "machine"
MAX_LISTED = 5  # paths that only one file has
# Fields of `bench.measure.machine` that may differ.
IGNORED = ("date", "load_average")


def figures(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield the numbers of a result with their paths; not those that describe the machine.

    Args:
        value: of the result.
        path: of the value.
    """
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield path, float(value)
        return
    items: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        items = ((key, x) for key, x in value.items() if key != MACHINE)
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from figures(item, f"{path}/{key}" if path else str(key))


def differences(a: Any, b: Any) -> list[str]:
    """Return the fields in which two descriptions of machines differ."""
    a, b = (x if isinstance(x, dict) else {} for x in (a, b))
    lines = []
    for key in sorted({*a, *b} - {*IGNORED}):
        if key == "versions":
            old, new = a.get(key) or {}, b.get(key) or {}
            lines += [
                f"{name} {old.get(name)} / {new.get(name)}"
                for name in sorted({*old, *new})
                if old.get(name) != new.get(name)
            ]
        elif a.get(key) != b.get(key):
            lines.append(f"{key} {a.get(key)} / {b.get(key)}")
    return lines


def compare(
    a: Any, b: Any, only: str = "", smallest: float = 0.0
) -> tuple[list[tuple[str, str, str, str]], list[str]]:
    """Return the rows of the table, and the lines below it.

    Args:
        a: a result.
        b: another one of the same benchmark.
        only: part of the paths that are shown.
        smallest: relative change that is shown.
    """
    old, new = dict(figures(a)), dict(figures(b))
    rows = []
    for path in [path for path in old if path in new and only in path]:
        ratio = new[path] / old[path] if old[path] else float("nan")
        if not abs(ratio - 1) < smallest:
            rows.append((path, f"{old[path]:.4g}", f"{new[path]:.4g}", f"{ratio:.3f}"))
    lines = []
    for name, missing in (("A", [x for x in old if x not in new]), ("B", [*new.keys() - old])):
        if missing:
            listed = ", ".join(sorted(missing)[:MAX_LISTED])
            more = f" and {len(missing) - MAX_LISTED} more" if len(missing) > MAX_LISTED else ""
            lines.append(f"only in {name}: {listed}{more}")
    machines = [x.get(MACHINE) if isinstance(x, dict) else None for x in (a, b)]
    lines += [f"machines differ: {line}" for line in differences(*machines)]
    loads = [(x or {}).get("load_average") for x in machines]
    lines.append(f"load of the machine: {loads[0]} / {loads[1]}")
    return rows, lines


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A", help="JSON of a benchmark")
    parser.add_argument("b", type=Path, metavar="B", help="JSON of the same benchmark")
    parser.add_argument("--only", default="", metavar="TEXT", help="paths that contain this")
    parser.add_argument(
        "--smallest", type=float, default=0.0, metavar="SHARE", help="relative change (0)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the comparison; returns the exit status."""
    options = parse(arguments)
    try:
        a, b = read_json(options.a), read_json(options.b)
    except JSONError as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    if not dict(figures(a)).keys() & dict(figures(b)).keys():
        print(f"compare: {options.a} and {options.b} have no figure in common", file=sys.stderr)
        return 2
    rows, lines = compare(a, b, options.only, options.smallest)
    print(printable(table(("figure", "A", "B", "B / A"), rows)) if rows else "no such difference")
    print(printable("\n".join(lines)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
