"""Look at data: one web page with samples of every task, lengths, and what was dropped and why.

  python -m convert browse shards/glamm_refcoco/1.0.0 --out page.html
  python -m convert browse shards --out page.html --samples 12      all datasets below a folder
  python -m convert browse miniworld/full --out page.html           drawn on the spot
  python -m convert browse shards --out page.html --tokenizer tests/goldens/tokenizer

DATA is what `python -m convert dataset` wrote, or miniworld/NAME. The page is one file that needs
nothing else. Large datasets are measured on --limit pictures, spread evenly over all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from glamm_jax.checks import ConfigError
from glamm_jax.data.miniworld import WORLDS
from glamm_jax.data.miniworld.source import MiniWorld
from glamm_jax.data.record import Record
from glamm_jax.data.shards import ShardError, Shards
from glamm_jax.report.records import UNREADABLE, Collection, page_of
from glamm_jax.text.tokenizer import TokenizerError, load_tokenizer

WORLD = "miniworld/"
NUM_SCENES, SCENE_SIZE = 200, 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("data", metavar="DATA", help="folder of shards, or miniworld/NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE", help="file to write")
    parser.add_argument("--samples", type=int, default=8, help="pictures of a task (default: 8)")
    parser.add_argument("--limit", type=int, default=2000, help="pictures read (default: 2000)")
    parser.add_argument("--tokenizer", type=Path, help="folder; measures texts in its tokens")


def run(options: argparse.Namespace) -> int:
    """Write the page; 2 when there is nothing to show."""
    try:
        if min(options.samples, options.limit) < 1:
            raise ShardError("--samples and --limit must be at least 1")
        tokenizer = load_tokenizer(options.tokenizer) if options.tokenizer else None
        collections = list(_collections(options.data, options.limit))
        page_of(options.data, collections, options.samples, tokenizer).save(options.out)
    except (ConfigError, OSError, ShardError, TokenizerError) as error:
        print(f"browse: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB")
    return 0


def _collections(data: str, limit: int) -> Iterator[Collection]:
    if data.startswith(WORLD):
        yield _world(data.removeprefix(WORLD))
        return
    folders = sorted(path.parent for path in Path(data).rglob("dataset_info.json"))
    if not folders:
        raise ShardError(f"{data}: no finished dataset in it; make one by `convert dataset`")
    for folder in folders:
        for split in _splits(folder):
            yield _collection(folder, split, limit)


def _world(name: str) -> Collection:
    if name not in WORLDS:
        raise ShardError(f"no mini-world {name!r}; there are {', '.join(WORLDS)}")
    source = MiniWorld(Path(), "train", ids=range(NUM_SCENES), size=SCENE_SIZE, world=WORLDS[name])
    found = [source.read(key).record for key in source.keys]
    records = [record for record in found if record is not None]
    return Collection(f"mini-world {name}", records, len(records))


def _splits(folder: Path) -> Sequence[str]:
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    return [split["name"] for split in info["splits"]]


def _collection(folder: Path, split: str, limit: int) -> Collection:
    """Records spread evenly over a split, and the defects that its conversion met."""
    shards = Shards(folder, split)
    step = max(len(shards) / limit, 1)
    records: list[Record] = []
    defects: dict[str, list[str]] = {}
    for i in tqdm(range(min(limit, len(shards))), desc=f"{folder} {split}", disable=None):
        try:
            records.append(shards[int(i * step)])
        except ShardError as error:
            defects.setdefault(UNREADABLE, []).append(str(error))
    named = folder / f"defects-{split}.json"
    if named.is_file():
        defects |= json.loads(named.read_text(encoding="utf-8"))["defects"]
    name = f"{folder.parent.name}, {split}"
    return Collection(name, records, len(shards), defects)
