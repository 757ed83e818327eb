"""Make the files of GranD_f from RefCOCOg, OpenPSG or Flickr30k.

examples:
  glamm-jax annotate grandf refcocog --data DATA --roles roles.toml --out out/grandf
  glamm-jax annotate grandf open-psg --data DATA --roles roles.toml --out out/grandf --limit 100
  glamm-jax annotate grandf flickr30k --data DATA --split val --roles roles.toml --out out/grandf

DATA is the data folder of docs/datasets.md. The file appears in OUT/GranDf/annotations/train; the
images stay in DATA. `glamm-jax convert dataset` reads both when OUT is DATA.

  refcocog    [llm] joins the expressions of the objects of an image to one caption, word for word
  open-psg    [llm] writes the relations of an image as a caption; the masks are the segments
  flickr30k   [segmenter] makes a mask of each box; the captions stay as they are

An answer that lacks an expression is requested again, with what is missing. What is still missing
is left out and counted; --complete-only leaves out such images. The same command continues after
an interruption, and tries again the images on which a model failed.

Exit status: 0 success; 1 a model failed on some images; 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from tqdm import tqdm

from glamm_jax.cli.program import positive_int, printable, this_machine
from glamm_jax.errors import ConfigError
from glamm_jax.grand.grandf.build_files import (
    FAILED,
    BuildOptions,
    BuildSummary,
    build_flickr30k,
    build_open_psg,
    build_refcocog,
)
from glamm_jax.grand.role_files import read_roles

# Dataset -> function, and the role that it needs.
BUILDERS: dict[str, tuple[Callable[..., BuildSummary], str]] = {
    "refcocog": (build_refcocog, "llm"),
    "open-psg": (build_open_psg, "llm"),
    "flickr30k": (build_flickr30k, "segmenter"),
}
MAX_PROBLEMS = 3  # that are printed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("source", choices=BUILDERS, help="what the captions are made of")
    parser.add_argument(
        "--data", type=this_machine, required=True, metavar="DATA", help="the data folder"
    )
    parser.add_argument("--split", choices=("train", "val"), default="train", help="%(default)s")
    parser.add_argument(
        "--roles", type=this_machine, required=True, metavar="FILE", help="the model (TOML)"
    )
    parser.add_argument(
        "--trust-roles", action="store_true", help="import the classes that the file names"
    )
    parser.add_argument(
        "--out", type=this_machine, required=True, metavar="OUT", help="folder to write"
    )
    parser.add_argument("--limit", type=positive_int, metavar="N", help="the first N images only")
    parser.add_argument(
        "--complete-only", action="store_true", help="no captions that lack an expression"
    )


def run(options: argparse.Namespace) -> int:
    """Make a file; returns the exit status."""
    build, field = BUILDERS[options.source]
    roles = read_roles(
        options.roles, photographs=Path(options.data).absolute(), trust=options.trust_roles
    )
    role: Any = getattr(roles, field)
    if role is None:
        raise ConfigError(f"{options.roles}: {options.source} needs a table [{field}]")
    settings = BuildOptions(limit=options.limit, complete_only=options.complete_only)
    with tqdm(unit=" images", disable=None) as bar:
        summary = build(options.data, options.split, role, options.out, settings, bar.update)
    print(f"wrote {summary.path}")
    print("\n".join(summary.lines()))
    for key, problem in [*summary.problems.items()][:MAX_PROBLEMS]:
        print(f"image {printable(f'{key}: {problem}')}")
    if len(summary.problems) > MAX_PROBLEMS:
        print(f"{len(summary.problems) - MAX_PROBLEMS} more images have problems")
    return 1 if summary.dropped[FAILED] else 0


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["grandf", *sys.argv[1:]]))
