"""Write a page about a training run: curves, events, validation, images of held-out examples.

  glamm-jax report RUN                    writes RUN/report.html
  glamm-jax report RUN --out page.html
  glamm-jax report RUN OTHER              the curves of several runs in the same plots

The page is one self-contained file. It can be written while the run is in progress.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from glamm_jax.cli.program import make_parser, run_program
from glamm_jax.training.training_page import make_training_page


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax report") -> int:
    """Write the page; returns the exit status."""
    parser = make_parser(prog, __doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="default: RUN/report.html")
    options = parser.parse_args(arguments)
    out = options.out or options.runs[0] / "report.html"
    return run_program("report", lambda: write(options.runs, out))


def write(runs: Sequence[Path], out: Path) -> None:
    """Write the page of one run, or of several.

    Raises:
        RunError: a folder has no metrics.
    """
    make_training_page(runs).save(out)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
