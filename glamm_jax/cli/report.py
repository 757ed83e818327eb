"""Write a web page about a training run: curves, events, validation metrics and images.

examples:
  glamm-jax report runs/gcg                       # writes runs/gcg/report.html
  glamm-jax report runs/gcg --out page.html
  glamm-jax report runs/gcg runs/other            # the curves of several runs in the same plots

The page is one self-contained file. It can be written while the run is in progress.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from glamm_jax.cli.program import any_path, make_parser, run_program
from glamm_jax.storage import AnyPath, size_of
from glamm_jax.training.training_page import make_training_page


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax report") -> int:
    """Write the page; returns the exit status."""
    options = parse(arguments, prog)
    out = options.out or options.runs[0] / "report.html"
    return run_program("report", lambda: write(options.runs, out))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax report") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    parser.add_argument("runs", type=any_path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--out", type=any_path, metavar="PAGE", help="default: RUN/report.html")
    return parser.parse_args(arguments)


def write(runs: Sequence[AnyPath], out: AnyPath) -> None:
    """Write the page of one or several runs.

    Raises:
        RunError: a folder has no metrics.
    """
    make_training_page(runs).save(out)
    print(f"{out}: {size_of(out) / 1e6:.1f} MB")


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.report"))
