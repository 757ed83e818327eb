"""`python -m convert COMMAND`: see `--help`, and README.md beside this file."""

from __future__ import annotations

import argparse
import sys

from glamm_jax.cli.convert import browse, dataset, from_torch, merge, miniworld, to_torch

COMMANDS = {
    "from-torch": from_torch,
    "to-torch": to_torch,
    "merge": merge,
    "parity": parity,
    "dataset": dataset,
    "miniworld": miniworld,
    "browse": browse,
}


def main(arguments: list[str] | None = None) -> int:
    """Parse, run one command, return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m convert", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        summary = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(
            name,
            help=summary,
            description=module.__doc__,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    options = parser.parse_args(arguments)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
