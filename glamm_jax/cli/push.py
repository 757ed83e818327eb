"""Upload a model folder to the Hugging Face Hub, with a model card.

examples:
  glamm-jax push trained org/shapes --license apache-2.0     # after: hf auth login
  glamm-jax push trained org/shapes --private
  glamm-jax ask --model org/shapes --image dog.jpg --prompt "Where is <p> the dog </p> [SEG]?"

The repository is created unless it exists, and everything is uploaded in one commit. Its model card
is the README.md of the folder; the front matter is generated if it has none, and all of it if there
is no such file. The Hub checks the card before anything is uploaded. After an interruption the same
command skips the files that the Hub has already.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from glamm_jax.cli.program import make_parser, run_program, this_machine
from glamm_jax.weights.hub import upload_model


def main(arguments: Sequence[str] | None = None, prog: str = "glamm-jax push") -> int:
    """Upload the folder; returns the exit status."""
    options = parse(arguments, prog)
    return run_program("push", lambda: push(options))


def parse(arguments: Sequence[str] | None, prog: str = "glamm-jax push") -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(prog, __doc__)
    parser.add_argument("folder", type=this_machine, metavar="MODEL", help="model folder")
    parser.add_argument("repository", metavar="ORG/NAME", help="repository of the Hub")
    parser.add_argument(
        "--license", metavar="ID", help="license in a generated model card, as the Hub names it"
    )
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    return parser.parse_args(arguments)


def push(options: argparse.Namespace) -> None:
    """Upload the folder and print the address of the commit."""
    address = upload_model(
        options.folder, options.repository, license_id=options.license, private=options.private
    )
    print(f"{address}\nglamm-jax ask --model {options.repository} --image FILE --prompt TEXT")


if __name__ == "__main__":
    sys.exit(main(prog="python -m glamm_jax.cli.push"))
