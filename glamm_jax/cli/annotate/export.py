"""Export the annotations of a run in the format of another program.

examples:
  glamm-jax annotate export out/run --format grand-json --out out/grand
  glamm-jax annotate export out/run --format shards --out out/shards --name grand_scenes
  glamm-jax annotate export out/run --format coco --out out/coco --min-votes 3 --images copy
  glamm-jax annotate export out/run --format coco --out out/reviewed --reviewed-only
  glamm-jax annotate export out/run --format yolo --out out/yolo --polygons --labels star,heart

  grand-json    the released JSON files, one per image
  lmdb          the two databases that the original's training reads
  shards        record shards, for `glamm-jax train`
  coco          instances, captions, referring expressions
  yolo          boxes, or polygons
  label-studio  tasks with boxes or masks, phrases and their relations
  parquet       for the library datasets of Hugging Face
  fiftyone      for FiftyOne
  grandf        dense captions as GranD_f's human-annotated part has them

Filters leave out objects, captions and images; each is counted in the summary, which is also in
OUT/export.json. Dense captions that a template wrote, or that were not verified, are exported only
with --template-captions or --unverified-captions, or if a person approved them.

Where persons have reviewed the annotations (`review`), their version is exported, without the
images that they discarded.

Exit status: 0 success; 2 unusable input, or the folder exists and --overwrite is not given.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from typing import Any

from tqdm import tqdm

from glamm_jax.cli.annotate.review_option import add_review_argument
from glamm_jax.cli.program import this_machine
from glamm_jax.errors import ConfigError
from glamm_jax.grand.export.filters import ExportFilters
from glamm_jax.grand.export.formats import find_exporter
from glamm_jax.grand.run_folder import AnnotationRun
from glamm_jax.grand.run_records import export_items

# Format -> the options that it has.
FORMAT_OPTIONS: dict[str, tuple[str, ...]] = {
    "grand-json": ("images", "own_keys"),
    "lmdb": ("images", "validation_share"),
    "shards": ("name", "validation_share"),
    "coco": ("images", "validation_share", "floating", "dense_captions"),
    "yolo": ("images", "validation_share", "floating", "polygons"),
    "label-studio": ("images",),
    "parquet": ("validation_share", "image_bytes"),
    "fiftyone": ("images", "validation_share"),
    "grandf": ("images",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("run", metavar="RUN", help="the run folder")
    parser.add_argument("--format", choices=FORMAT_OPTIONS, required=True)
    parser.add_argument("--out", type=this_machine, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier export")
    form = parser.add_argument_group("form")
    form.add_argument("--images", choices=("none", "copy", "link"), help="also the image files")
    form.add_argument("--validation-share", type=float, metavar="SHARE", help="of the images")
    form.add_argument("--name", help="shards: of the dataset (grand)")
    form.add_argument(
        "--own-keys", action="store_true", default=None, help="grand-json: votes, checks, relations"
    )
    form.add_argument(
        "--floating", action="store_true", default=None, help="coco, yolo: floating objects, too"
    )
    form.add_argument(
        "--dense-captions", action="store_true", default=None, help="coco: dense captions, too"
    )
    form.add_argument(
        "--polygons", action="store_true", default=None, help="yolo: instead of boxes"
    )
    form.add_argument(
        "--image-bytes", action="store_true", default=None, help="parquet: the images, too"
    )
    filters = parser.add_argument_group("filters")
    filters.add_argument("--min-score", type=float, default=0.0, metavar="SCORE", help="of objects")
    filters.add_argument(
        "--min-votes", type=int, default=0, metavar="N", help="models that found an object"
    )
    filters.add_argument("--labels", type=_names, metavar="A,B", help="only objects with these")
    filters.add_argument(
        "--exclude-labels", type=_names, default=(), metavar="A,B", help="no objects with these"
    )
    filters.add_argument(
        "--min-box-side", type=float, default=0.0, metavar="PIXELS", help="of objects"
    )
    filters.add_argument(
        "--complete-only", action="store_true", help="no images of which a stage failed"
    )
    filters.add_argument(
        "--reviewed-only",
        action="store_true",
        help="only images that persons approved or corrected",
    )
    add_review_argument(filters)
    filters.add_argument(
        "--unverified-captions", action="store_true", help="dense captions, verified or not"
    )
    filters.add_argument(
        "--template-captions", action="store_true", help="dense captions by the template, too"
    )
    filters.add_argument(
        "--duplicate-distance",
        type=int,
        metavar="BITS",
        help="drop images whose hash differs in at most so many of 64 bits from an earlier one",
    )


def run(options: argparse.Namespace) -> int:
    """Export; returns the exit status."""
    folder = AnnotationRun.open(options.run)
    arguments = _arguments(options)
    with tqdm(total=folder.num_images, unit=" images", disable=None) as bar:
        summary = find_exporter(options.format)(
            export_items(folder, ignore_reviews=options.ignore_reviews),
            options.out,
            filters=_filters(options),
            overwrite=options.overwrite,
            on_image=lambda: bar.update() and None,
            **arguments,
        )
    print(f"{options.out}: {options.format}")
    print("\n".join(summary.lines()))
    return 0


def _arguments(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the format that are given.

    Raises:
        ConfigError: the format does not have one of them.
    """
    names = dict.fromkeys(name for names in FORMAT_OPTIONS.values() for name in names)
    values = {name: getattr(options, name) for name in names}
    arguments = {name: value for name, value in values.items() if value is not None}
    for name in arguments:
        if name not in FORMAT_OPTIONS[options.format]:
            flag = name.replace("_", "-")
            having = [kind for kind, own in FORMAT_OPTIONS.items() if name in own]
            raise ConfigError(f"--{flag} is not for {options.format}, but for {', '.join(having)}")
    if arguments.pop("polygons", False):
        arguments["kind"] = "polygons"
    return arguments


def _filters(options: argparse.Namespace) -> ExportFilters:
    if options.reviewed_only and options.ignore_reviews:
        raise ConfigError("--reviewed-only and --ignore-reviews exclude each other")
    return ExportFilters(
        min_score=options.min_score,
        min_votes=options.min_votes,
        labels=options.labels,
        excluded_labels=options.exclude_labels,
        min_box_side=options.min_box_side,
        partial_images=not options.complete_only,
        reviewed_only=options.reviewed_only,
        unverified_captions=options.unverified_captions,
        template_captions=options.template_captions,
        duplicate_distance=options.duplicate_distance,
    )


def _names(text: str) -> tuple[str, ...]:
    """Parse a list separated by commas; a type of argparse."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.annotate").main(["export", *sys.argv[1:]]))
