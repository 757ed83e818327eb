"""Render scenes of a mini-world with all that is true about them, to annotate and score.

examples:
  glamm-jax annotate scenes out/scenes --count 20
  glamm-jax annotate scenes out/easy --count 1000 --world easy --size 128 --seed 1

OUT/images has the photographs of a run; OUT/truth.jsonl is what the oracles of a roles file answer
from, and what `score` compares with. The errors of the oracles are set in the roles file: [oracle],
noise = "easy".

Exit status: 0 success; 2 the folder exists or cannot be written.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from glamm_jax.cli.program import positive_int, this_machine
from glamm_jax.miniworld import WORLDS
from glamm_jax.miniworld.truth_folder import IMAGES, write_scenes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("out", type=this_machine, metavar="OUT", help="folder to write")
    parser.add_argument(
        "--count", type=positive_int, default=200, metavar="N", help="of scenes (%(default)s)"
    )
    parser.add_argument("--world", choices=WORLDS, default="full", help="default: %(default)s")
    parser.add_argument(
        "--size", type=positive_int, default=224, help="width and height in pixels (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scenes (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Render the scenes; returns the exit status."""
    write_scenes(options.out, WORLDS[options.world], options.seed, options.count, options.size)
    print(f"{options.out / IMAGES}: {options.count:,} scenes of {options.size} pixels")
    return 0


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["scenes", *sys.argv[1:]]))
