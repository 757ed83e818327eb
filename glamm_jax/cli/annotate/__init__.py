"""Annotate photographs: objects, captions, relations, grounded dense captions, masks.

examples:
  glamm-jax annotate scenes out/scenes --count 20
  glamm-jax annotate run out/scenes/images --out out/run --roles configs/annotate/oracle.toml
  glamm-jax annotate inspect out/run scene_000003 --out out/scene.html
  glamm-jax annotate review out/run
  glamm-jax annotate export out/run --format grand-json --out out/grand

A run is a folder. The same command continues it after an interruption; with other settings it
computes only the stages that depend on them. docs/annotate.md explains the stages.

`glamm-jax annotate COMMAND --help` describes a command, with examples.

Exit status: 0 success; 1 depends on the command, see its help; 2 unusable input.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from glamm_jax.cli.annotate import (
    export,
    grandf,
    inspect,
    presets,
    report,
    review,
    run,
    scenes,
    score,
    status,
)
from glamm_jax.cli.program import add_command, make_parser, run_program

COMMANDS = {
    "run": run,
    "status": status,
    "inspect": inspect,
    "report": report,
    "review": review,
    "export": export,
    "score": score,
    "presets": presets,
    "scenes": scenes,
    "grandf": grandf,
}


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax annotate") -> int:
    """Run one command; returns its exit status."""
    options = parse(arguments, prog)
    return run_program(options.command, lambda: COMMANDS[options.command].run(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax annotate") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, module in COMMANDS.items():
        add_command(commands, name, module.__doc__ or "", module.add_arguments)
    return parser.parse_args(arguments)
