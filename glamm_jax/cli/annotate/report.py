"""Write a page about a run: counts and errors, time, distributions, a gallery.

examples:
  glamm-jax annotate report out/run
  glamm-jax annotate report out/run --out out/report.html --gallery 48 --seed 1

Exit status: 0 success; 2 it is not the folder of a run.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module

from tqdm import tqdm

from glamm_jax.cli.annotate.review_option import add_review_argument
from glamm_jax.cli.program import any_path
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_page import NUM_IMAGES, run_page
from glamm_jax.storage import to_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--out", type=any_path, metavar="PAGE", help="default: RUN/report.html")
    parser.add_argument(
        "--gallery", type=int, default=NUM_IMAGES, metavar="N", help="images (%(default)s)"
    )
    add_review_argument(parser)
    parser.add_argument("--seed", type=int, default=0, help="of their choice (%(default)s)")


def run(options: argparse.Namespace) -> int:
    """Write the page; returns the exit status."""
    folder = AnnotationRun.open(options.run)
    out = options.out or to_path(os.fspath(folder.path)) / "report.html"
    with tqdm(total=folder.num_images, unit=" images", disable=None) as bar:
        page = run_page(
            folder,
            max(0, options.gallery),
            options.seed,
            lambda: bar.update(),
            ignore_reviews=options.ignore_reviews,
        )
    page.save(out)
    print(f"{out}: {folder.num_images:,} images")
    return 0


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["report", *sys.argv[1:]]))
