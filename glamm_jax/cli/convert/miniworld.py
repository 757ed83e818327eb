"""Render scenes of a mini-world to files: record shards, or the formats of real datasets.

examples:
  glamm-jax convert miniworld --out world --scenes 1000                           # record shards
  glamm-jax convert miniworld --out world-grand --scenes 1000 --format grand      # GranD
  glamm-jax convert miniworld --out world-grandf --scenes 1000 --format grandf    # GranD_f
  glamm-jax convert miniworld --out seen --scenes 1000 --world easy --held-out red:star,blue:ring
  glamm-jax convert dataset grand --source world-grand --out shards    # then: convert to shards

The scenes depend on --seed, --size and --world only. The split train has SCENES scenes, val and
test a tenth of that each; GranD has the split train only, as released.

--held-out red:star,blue:ring excludes red stars and blue rings from train; every scene of val and
test has one of them.

The same command resumes writing record shards. The folder of another format must not exist: it is
written under a temporary name and renamed.

Exit status: 0 success; 1 there are defects, with --strict; 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from importlib import import_module

from tqdm import tqdm

from glamm_jax.cli.convert import dataset
from glamm_jax.cli.program import positive_int, this_machine
from glamm_jax.data.conversion import SourceReader
from glamm_jax.miniworld import WORLDS, Scene, World, hold_out, render_scene
from glamm_jax.miniworld.grand_folder import write_grand
from glamm_jax.miniworld.grandf_folder import write_grandf
from glamm_jax.miniworld.refcoco_folder import write_refcoco
from glamm_jax.miniworld.source import MiniWorldSource
from glamm_jax.miniworld.world import ObjectKind

FORMATS = ("shards", "grand", "grandf", "refcoco")
EVAL_SHARE = 10  # val and test have a tenth of the scenes of train
# split -> ids of its scenes, and their world
Splits = dict[str, tuple[range, World]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--out", type=this_machine, required=True, help="folder to write")
    parser.add_argument(
        "--scenes", type=positive_int, required=True, metavar="N", help="scenes of train"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the scenes (%(default)s)")
    parser.add_argument(
        "--size", type=positive_int, default=128, help="width and height in pixels (%(default)s)"
    )
    parser.add_argument("--world", choices=WORLDS, default="full", help="default: %(default)s")
    parser.add_argument("--format", choices=FORMATS, default="shards", help="default: %(default)s")
    parser.add_argument(
        "--held-out",
        type=_kinds,
        default=(),
        metavar="COLOUR:SHAPE,...",
        help="kinds of objects that only val and test have",
    )
    dataset.add_writing_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write all splits of a world; returns the exit status."""
    splits = _splits(options)
    if options.format == "shards":
        return max(_write_shards(split, options, *splits[split]) for split in splits)
    if options.format == "grand":
        splits = {"train": splits["train"]}
    total = sum(len(ids) for ids, _ in splits.values())
    with tqdm(total=total, unit=" scenes", disable=None) as bar:
        scenes = {split: _render(options, *splits[split], bar) for split in splits}
        if options.format == "grand":
            write_grand(options.out, scenes["train"])
        else:
            writers = {"grandf": write_grandf, "refcoco": write_refcoco}
            writers[options.format](options.out, scenes)
    for split, (ids, _) in splits.items():
        print(f"{options.out}: {split}, {len(ids)} scenes")
    return 0


def _splits(options: argparse.Namespace) -> Splits:
    world = WORLDS[options.world]
    train, test = hold_out(world, options.held_out) if options.held_out else (world, world)
    first, few = options.scenes, -(-options.scenes // EVAL_SHARE)
    return {
        "train": (range(first), train),
        "val": (range(first, first + few), test),
        "test": (range(first + few, first + 2 * few), test),
    }


def _render(
    options: argparse.Namespace, ids: Iterable[int], world: World, bar: tqdm
) -> Iterator[Scene]:
    for i in ids:
        yield render_scene(options.seed, i, options.size, world)
        bar.update()


def _write_shards(split: str, options: argparse.Namespace, ids: range, world: World) -> int:
    print(f"{split}:")
    make_source = partial(
        MiniWorldSource, ids=ids, seed=options.seed, size=options.size, world=world
    )
    return dataset.convert(SourceReader(make_source, options.out, split, options.shards), options)


def _kinds(text: str) -> tuple[ObjectKind, ...]:
    """Parse kinds of objects, "red:star,blue:ring"; a type of argparse."""
    pairs = [tuple(pair.split(":")) for pair in text.split(",")]
    if not all(len(pair) == 2 for pair in pairs):
        raise argparse.ArgumentTypeError(
            "expected COLOUR:SHAPE, or several of them separated by commas"
        )
    return tuple((colour, shape) for colour, shape in pairs)


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.convert").main(["miniworld", *sys.argv[1:]]))
