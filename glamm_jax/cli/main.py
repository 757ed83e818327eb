"""GLaMM-JAX: train, evaluate and use a model that answers questions about images with masks.

examples:
  glamm-jax ask --scene 7
  glamm-jax train --config configs/tiny.py --out runs/tiny
  glamm-jax eval gcg --model checkpoints/miniworld-tiny --data miniworld/easy@64 \\
      --similarity words --out out/gcg
  glamm-jax convert from-torch GLaMM-FullScope --clip clip-vit-large-patch14-336 --out glamm

`glamm-jax COMMAND --help` describes a command, with examples.
"""

from __future__ import annotations

import sys
from importlib import import_module

from glamm_jax.cli.program import make_parser

# Command -> summary. The module of the same name is imported when the command is run.
COMMANDS = {
    "ask": "answer a question about an image with text and masks",
    "app": "start the web app: ask about images in a browser",
    "serve": "serve a model over HTTP, in the format of OpenAI",
    "train": "train a model, or resume a run",
    "report": "write a web page about a training run",
    "export": "write the trained model of a run as a model folder",
    "plan": "compute the parameters, memory, FLOPs and time of a training run",
    "push": "upload a model folder to the Hugging Face Hub",
    "eval": "evaluate a model, or score predictions, on a benchmark",
    "compare": "compare two evaluations of one benchmark",
    "annotate": "annotate photographs with objects, captions and masks",
    "convert": "convert checkpoints and datasets, render mini-worlds, browse datasets",
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
