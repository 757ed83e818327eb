"""Convert checkpoints and datasets, browse datasets, and compare with the PyTorch original.

  glamm-jax convert from-torch GLaMM-FullScope --clip clip-vit-large-patch14-336 --out glamm
  glamm-jax convert to-torch glamm --out GLaMM-back
  glamm-jax convert dataset refcoco --source ~/data --out shards
  glamm-jax convert COMMAND --help

Exit status: 0 done, 1 the command found something to report (see its help), 2 unusable input.
"""

from __future__ import annotations

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
    parser = make_parser(prog, __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        add_command(commands, name, module.__doc__ or "", module.add_arguments)
    options = parser.parse_args(arguments)
    return run_program(options.command, lambda: COMMANDS[options.command].run(options))
