"""List the options of an annotation that the presets have different values of, or all.

examples:
  glamm-jax annotate presets
  glamm-jax annotate presets --all --match fusion
  glamm-jax annotate presets --markdown

The names are those of `run --set NAME=VALUE`.
"""

from __future__ import annotations

import argparse
import sys
import textwrap
from importlib import import_module

from glamm_jax.grand.option_list import markdown_table, option_rows

WIDTH = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--all", action="store_true", help="also options with equal values")
    parser.add_argument("--match", default="", metavar="TEXT", help="only names with this text")
    parser.add_argument("--markdown", action="store_true", help="as a table for a document")


def run(options: argparse.Namespace) -> int:
    """Print the options; returns the exit status."""
    rows = [
        row for row in option_rows() if (options.all or row.differs) and options.match in row.name
    ]
    if options.markdown:
        print(markdown_table(rows))
        return 0
    for row in rows:
        values = "   ".join(f"{preset}: {value}" for preset, value in row.values.items())
        print(f"{row.name}\n    {values}")
        print(
            textwrap.fill(row.description, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
        )
    return 0


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["presets", *sys.argv[1:]]))
