"""The command `glamm-jax`.

  glamm-jax train --config configs/tiny.py --out runs/tiny
  glamm-jax eval gcg --model checkpoints/miniworld-tiny --data miniworld/easy@64 --out out/gcg
  glamm-jax ask --model MODEL --image dog.jpg --prompt "Describe the image."

`glamm-jax COMMAND --help` explains a command, with examples.
"""

from __future__ import annotations

import sys
from importlib import import_module

from glamm_jax.cli.program import make_parser

# Command -> what it does. Each is the module of this name, imported when it is chosen.
COMMANDS = {
    "ask": "ask a model about an image; text and masks out",
    "train": "train a model, or resume a run",
    "report": "write the page of a training run",
    "export": "write the model of a training run as a model folder",
    "plan": "parameters, memory, FLOPs and time of a training run, without running it",
    "eval": "evaluate a model or predictions on a benchmark",
    "compare": "compare two evaluations of one benchmark",
    "convert": "checkpoints and datasets, both ways",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments and arguments[0] in COMMANDS:
        command = arguments[0]
        program = import_module(f"glamm_jax.cli.{command}")
        return program.main(arguments[1:], prog=f"glamm-jax {command}")
    parser = make_parser("glamm-jax", __doc__)
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        commands.add_parser(name, help=summary)
    parser.parse_args(arguments)
    return 0


def _version() -> str:
    import glamm_jax

    return f"glamm-jax {glamm_jax.__version__}"


if __name__ == "__main__":
    sys.exit(main())
