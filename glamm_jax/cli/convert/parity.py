"""Compare this implementation with numbers recorded from the PyTorch original, array by array.

examples:
  glamm-jax convert parity tests/goldens
  glamm-jax convert parity tests/goldens --only components,e2e --json parity.json

The comparison is in `tools/parity` of the repository, so it needs a checkout.

Exit status: 0 all equal; 1 an array differs or is unknown; 2 the folder, a file or a requested part
is missing or broken.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from glamm_jax.cli.program import checkout_path, positive_int, this_machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", type=this_machine, metavar="DIR", help="golden folder")
    parser.add_argument(
        "--only",
        type=lambda text: [part for part in text.split(",") if part],
        default=[],
        metavar="PART,PART",
        help="compare these parts only: preprocessing, tokenizer, conversations, e2e, components, "
        "manifest, datasets, pipeline, evaluation, grand",
    )
    parser.add_argument(
        "--processes",
        type=positive_int,
        default=1,
        metavar="N",
        help="compare N parts at the same time (default: %(default)s)",
    )
    parser.add_argument(
        "--json", type=this_machine, metavar="FILE", help="write the verdict on every array"
    )
    parser.add_argument(
        "--all", action="store_true", help="also print excluded arrays, with the reason"
    )


def run(options: argparse.Namespace) -> int:
    """Compare; the exit status is that of the comparison.

    Raises:
        ConfigError: the package is not imported from a checkout.
    """
    tool = checkout_path("tools", "parity", instead="clone the repository to compare")
    if str(tool.parents[1]) not in sys.path:
        sys.path.insert(0, str(tool.parents[1]))
    compare = import_module("tools.parity.command").compare
    return compare(
        options.folder,
        options.only,
        options.json,
        show_excluded=options.all,
        num_processes=options.processes,
    )


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.convert").main(["parity", *sys.argv[1:]]))
