"""Look at data: a web page of conversations as training draws them, lengths, and what is lost.

  python -m convert browse shards/glamm_refcoco/1.0.0 --out page.html
  python -m convert browse shards --out page.html --samples 12      all datasets below a folder
  python -m convert browse miniworld/full --out page.html           drawn on the spot
  python -m convert browse shards --out page.html --tokenizer GLaMM-FullScope

DATA is what `python -m convert dataset` wrote, or miniworld/NAME. The page is one file that needs
nothing else. Of large datasets --limit pictures are looked at, spread evenly over all.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from glamm_jax.config import released
from glamm_jax.data.record_shards import ShardError, Shards
from glamm_jax.data.record_sources import MINIWORLD, MiniWorldRecords
from glamm_jax.errors import ConfigError
from glamm_jax.report.dataset_page import Collection, Drawing, page_of
from glamm_jax.text.tokenizer import TokenizerError, load_tokenizer
from glamm_jax.types import Capacity

NUM_SCENES, SCENE_SIZE = 200, 256
TOKENIZER = Path(__file__).parents[1] / "tests" / "goldens" / "tokenizer"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command takes."""
    parser.add_argument("data", metavar="DATA", help="folder of shards, or miniworld/NAME")
    parser.add_argument("--out", type=Path, required=True, metavar="PAGE", help="file to write")
    parser.add_argument("--samples", type=int, default=8, help="pictures of a task (default: 8)")
    parser.add_argument("--limit", type=int, default=1000, help="pictures read (default: 1000)")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=TOKENIZER,
        help="folder with LLaMA's tokenizer.model, for true lengths; the default is the small one "
        "of this repository's tests, in whose tokens texts are longer",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        default=released().llama.max_positions,
        help="that a row holds, the image's included; longer conversations are cut "
        "(default: %(default)s)",
    )


def run(options: argparse.Namespace) -> int:
    """Write the page; 2 when there is nothing to show."""
    try:
        if min(options.samples, options.limit) < 1:
            raise ShardError("--samples and --limit must be at least 1")
        tokenizer = load_tokenizer(options.tokenizer)
        model = replace(released(), tokens=tokenizer.tokens)
        room = Capacity(tokens=options.tokens, targets=options.tokens)
        collections = list(_collections(options.data, options.limit))
        drawing = Drawing(tokenizer, model, room)
        page_of(options.data, collections, options.samples, drawing, _watch).save(options.out)
    except (ConfigError, OSError, ShardError, TokenizerError) as error:
        print(f"browse: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")
    return 0


def _watch(numbers: Sequence[int], name: str) -> Iterable[int]:
    return tqdm(numbers, desc=name, unit=" pictures", disable=None)


def _collections(data: str, limit: int) -> Iterator[Collection]:
    if data.startswith(MINIWORLD):
        name = data.removeprefix(MINIWORLD)
        scenes = MiniWorldRecords(name, seed=0, image_size=SCENE_SIZE)
        yield Collection(f"mini-world {name}", scenes, min(limit, NUM_SCENES))
        return
    folders = sorted(path.parent for path in Path(data).rglob("dataset_info.json"))
    if not folders:
        raise ShardError(f"{data}: no finished dataset in it; make one by `convert dataset`")
    for folder in folders:
        for split in _splits(folder):
            name = f"{folder.parent.name}, {split}"
            yield Collection(name, Shards(folder, split), limit, _defects(folder, split))


def _splits(folder: Path) -> Sequence[str]:
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    return [split["name"] for split in info["splits"]]


def _defects(folder: Path, split: str) -> dict[str, list[str]]:
    """What the conversion of a split met."""
    named = folder / f"defects-{split}.json"
    return json.loads(named.read_text(encoding="utf-8"))["defects"] if named.is_file() else {}
