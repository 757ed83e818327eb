"""Draw a mini-world into files: shards, or the datasets that it imitates.

  python -m convert miniworld --out world --scenes 1000 --format shards     ready to train on
  python -m convert miniworld --out world --scenes 1000 --format grand      GranD as released
  python -m convert miniworld --out world --scenes 1000 --format grandf     GranD_f, with its truth
  python -m convert miniworld --out world --scenes 1000 --format refcoco    refCOCO
  python -m convert dataset grand --source world --out shards               one of them, read again

Everything follows from --seed, --size and --world. There are SCENES for train, and a tenth as many
for val and for test; of GranD there is only train, as released.

--held-out red:star,blue:ring withholds red stars and blue rings from train; every scene of val and
test has one of them.

Shards go on where they were stopped. A folder of another format is written under a temporary name
first, so it must not exist.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

from tqdm import tqdm

from glamm_jax.cli.convert import dataset
from glamm_jax.data.conversion import Reading
from glamm_jax.data.sources.source_files import SourceError
from glamm_jax.data.split_folder import ConversionError
from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.miniworld import WORLDS, Scene, SceneError, World, held_out, scene
from glamm_jax.miniworld.grand_folder import write_grand
from glamm_jax.miniworld.grandf_folder import write_grandf
from glamm_jax.miniworld.refcoco_folder import write_refcoco
from glamm_jax.miniworld.source import MiniWorld
from glamm_jax.miniworld.world import Kind

FORMATS = ("shards", "grand", "grandf", "refcoco")
TENTH = 10
# split -> ids of its scenes, and the world that they are of.
Splits = dict[str, tuple[range, World]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--scenes", type=_positive, required=True, metavar="N", help="of train")
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--size", type=_positive, default=128, help="in pixels; default: 128")
    parser.add_argument("--world", choices=WORLDS, default="full", help="default: full")
    parser.add_argument("--format", choices=FORMATS, default="shards", help="default: shards")
    parser.add_argument("--held-out", type=_kinds, default=(), metavar="COLOUR:SHAPE,...")
    dataset.add_writing_arguments(parser)


def run(options: argparse.Namespace) -> int:
    """Write a world; 2 when that cannot be done."""
    try:
        return write(options)
    except (ConfigError, ConversionError, FolderError, SceneError, SourceError) as error:
        print(f"miniworld: {error}", file=sys.stderr)
        return 2


def write(options: argparse.Namespace) -> int:
    """Write all splits of a world in the wanted format."""
    splits = _splits(options)
    if options.format == "shards":
        return max(_write_shards(split, options, *splits[split]) for split in splits)
    if options.format == "grand":
        splits = {"train": splits["train"]}
    total = sum(len(ids) for ids, _ in splits.values())
    with tqdm(total=total, unit=" scenes", disable=None) as bar:
        drawn = {split: _draw(options, *splits[split], bar) for split in splits}
        if options.format == "grand":
            write_grand(options.out, drawn["train"])
        else:
            writers = {"grandf": write_grandf, "refcoco": write_refcoco}
            writers[options.format](options.out, drawn)
    for split, (ids, _) in splits.items():
        print(f"{options.out}: {split}, {len(ids)} scenes")
    return 0


def _splits(options: argparse.Namespace) -> Splits:
    world = WORLDS[options.world]
    train, test = held_out(world, options.held_out) if options.held_out else (world, world)
    some = -(-options.scenes // TENTH)
    first = options.scenes
    return {
        "train": (range(first), train),
        "val": (range(first, first + some), test),
        "test": (range(first + some, first + 2 * some), test),
    }


def _draw(
    options: argparse.Namespace, ids: Iterable[int], world: World, bar: tqdm
) -> Iterator[Scene]:
    for i in ids:
        yield scene(options.seed, i, options.size, world)
        bar.update()


def _write_shards(split: str, options: argparse.Namespace, ids: range, world: World) -> int:
    print(f"{split}:")
    make_source = partial(MiniWorld, ids=ids, seed=options.seed, size=options.size, world=world)
    return dataset.convert(Reading(make_source, options.out, split, options.shards), options)


def _kinds(text: str) -> tuple[Kind, ...]:
    """red:star,blue:ring"""
    pairs = [tuple(pair.split(":")) for pair in text.split(",")]
    if not all(len(pair) == 2 for pair in pairs):
        raise argparse.ArgumentTypeError("write COLOUR:SHAPE, several with commas between")
    return tuple((colour, shape) for colour, shape in pairs)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
