"""Write a page about one image of a run: what each model said, and what became of it.

examples:
  glamm-jax annotate inspect out/run scene_000003
  glamm-jax annotate inspect out/run scene_000003.png --out out/scene.html

IMAGE is the path of the image in the folder of photographs, or its name with or without extension.
The page shows every detection with the object that it became a vote of, or why it was not used,
all answers of the language model with what was wrong with them, and all errors.

Exit status: 0 success; 2 there is no such image or run.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path

from glamm_jax.cli.annotate.review_option import add_review_argument
from glamm_jax.cli.program import this_machine
from glamm_jax.grand.chunks import path_name
from glamm_jax.grand.inspection_page import inspection_page
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import find_image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("image", metavar="IMAGE", help="its id or name")
    add_review_argument(parser)
    parser.add_argument("--out", type=this_machine, metavar="PAGE", help="default: IMAGE.html")


def run(options: argparse.Namespace) -> int:
    """Write the page; returns the exit status."""
    folder = AnnotationRun.open(options.run)
    place = find_image(folder, options.image)
    out = options.out or Path(f"{path_name(place.entry.image_id)}.html")
    out.parent.mkdir(parents=True, exist_ok=True)
    inspection_page(folder, place, ignore_reviews=options.ignore_reviews).save(out)
    print(f"{out}: {place.entry.image_id}")
    return 0


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["inspect", *sys.argv[1:]]))
