"""Convert checkpoints and datasets, browse datasets, and compare with the PyTorch original.

examples:
  glamm-jax convert from-torch GLaMM-FullScope --clip clip-vit-large-patch14-336 --out glamm
  glamm-jax convert to-torch glamm --out GLaMM-back
  glamm-jax convert dataset refcoco --source ~/data --out shards
  glamm-jax convert browse shards --out page.html

`glamm-jax convert COMMAND --help` describes a command, with examples.

Exit status: 0 success; 1 depends on the command, see its help; 2 unusable input.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from glamm_jax.cli.convert import (
    browse,
    dataset,
    from_torch,
    merge,
    miniworld,
    parity,
    to_torch,
)
from glamm_jax.cli.program import add_command, make_parser, run_program

COMMANDS = {
    "from-torch": from_torch,
    "to-torch": to_torch,
    "merge": merge,
    "dataset": dataset,
    "miniworld": miniworld,
    "browse": browse,
    "parity": parity,
}


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax convert") -> int:
    """Run one conversion command; returns its exit status."""
    options = parse(arguments, prog)
    return run_program(options.command, lambda: COMMANDS[options.command].run(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax convert") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        add_command(commands, name, module.__doc__ or "", module.add_arguments)
    return parser.parse_args(arguments)
