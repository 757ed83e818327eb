"""Write a web page about a dataset: sampled conversations, lengths, and what is dropped and why.

examples:
  glamm-jax convert browse shards/glamm_refcoco/1.0.0 --out page.html
  glamm-jax convert browse shards --out page.html --samples 12      # all datasets below a folder
  glamm-jax convert browse miniworld/full@256 --out page.html       # scenes rendered on the fly
  glamm-jax convert browse shards --out page.html --tokenizer GLaMM-FullScope

DATA is a folder that `glamm-jax convert dataset` wrote, or the name of a registered record source
(miniworld/WORLD@SIZE). Conversations are sampled as in training. The page is one self-contained
file. Of a large dataset, --limit images are read at regular intervals.

Exit status: 0 success, 2 unusable input.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module

from tqdm import tqdm

import glamm_jax.miniworld  # noqa: F401  # registers the datasets miniworld/NAME
from glamm_jax.cli.program import any_path, checkout_path, positive_int, this_machine
from glamm_jax.config import released
from glamm_jax.data.record_shards import RecordShards, ShardError
from glamm_jax.data.record_sources import find_scheme, open_records
from glamm_jax.files import safe_name
from glamm_jax.json_files import read_object
from glamm_jax.report.dataset_page import ConversationSampling, RecordCollection, build_dataset_page
from glamm_jax.storage import AnyPath, size_of, to_path
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.types import BatchShape

TEST_TOKENIZER = ("tests", "goldens", "tokenizer")  # in a checkout


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "data", metavar="DATA", help="folder of record shards, or miniworld/WORLD@SIZE"
    )
    parser.add_argument("--out", type=any_path, required=True, metavar="PAGE", help="page to write")
    parser.add_argument(
        "--samples",
        type=positive_int,
        default=8,
        metavar="N",
        help="images shown per task (%(default)s)",
    )
    parser.add_argument(
        "--limit",
        type=positive_int,
        default=1000,
        metavar="N",
        help="images read per split (%(default)s)",
    )
    parser.add_argument(
        "--tokenizer",
        type=this_machine,
        metavar="DIR",
        help="folder with LLaMA's tokenizer.model, for the lengths of the released model; default: "
        "the small tokenizer of the repository's tests, which needs more tokens for a text",
    )
    parser.add_argument(
        "--tokens",
        type=positive_int,
        default=released().llama.max_positions,
        metavar="N",
        help="maximum length of a row, image patches included; longer conversations are "
        "truncated (%(default)s)",
    )


def run(options: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        GLaMMError: the data or the tokenizer cannot be read.
    """
    folder = options.tokenizer or checkout_path(
        *TEST_TOKENIZER, instead="pass a folder with tokenizer.model as --tokenizer"
    )
    tokenizer = load_tokenizer(folder)
    model = replace(released(), tokens=tokenizer.tokens)
    shape = BatchShape(tokens=options.tokens, targets=options.tokens)
    collections = list(_collections(options.data, options.limit))
    sampling = ConversationSampling(tokenizer, model, shape)
    build_dataset_page(options.data, collections, options.samples, sampling, _progress).save(
        options.out
    )
    print(f"{options.out}: {size_of(options.out) / 1e6:.2f} MB")


def _progress(indices: Sequence[int], name: str) -> Iterable[int]:
    return tqdm(indices, desc=name, unit=" images", disable=None)


def _collections(data: str, limit: int) -> Iterator[RecordCollection]:
    scheme = find_scheme(data)
    if scheme is not None:
        yield RecordCollection(
            data, open_records(data, "train"), min(limit, scheme.eval_limit or limit)
        )
        return
    folders = sorted(path.parent for path in to_path(data).rglob("dataset_info.json"))
    if not folders:
        raise ShardError(f"{data}: no finished dataset in it; write one with `convert dataset`")
    for folder in folders:
        info = read_object(folder / "dataset_info.json")
        for split in [safe_name(item.text("name")) for item in info.objects("splits")]:
            records, name = RecordShards(folder, split), f"{folder.parent.name}, {split}"
            yield RecordCollection(name, records, limit, _defects(folder, split))


def _defects(folder: AnyPath, split: str) -> dict[str, list[str]]:
    """Return the defects recorded in the conversion of a split: kind -> places."""
    path = folder / f"defects-{split}.json"
    if not path.is_file():
        return {}
    defects = read_object(path).object("defects")
    return {kind: [*map(str, defects.array(kind))] for kind in defects}


if __name__ == "__main__":
    sys.exit(import_module("glamm_jax.cli.convert").main(["browse", *sys.argv[1:]]))
