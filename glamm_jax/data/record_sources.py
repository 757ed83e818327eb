"""Where records come from: shards on disk, or a scheme that another package registers.

    records = open_records("shards/glamm_grandf/1.0.0", "train")  # a folder of record shards
    register_scheme("synthetic", RecordScheme(open_synthetic))    # a function of yours
    records = open_records("synthetic/NAME", "val", seed=3)       # calls open_synthetic

A scheme is registered when the package that has it is imported.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from glamm_jax.data.block_cache import BlockCache
from glamm_jax.data.record import Record
from glamm_jax.errors import ConfigError

PromptStyle = Literal["original", "ours"]


@runtime_checkable
class RecordSource(Protocol):
    """Records by index. It is pickled to data workers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@dataclass(frozen=True)
class RecordScheme:
    """A family of record sources, chosen by the part of a dataset's name before the first slash.

    Attributes:
        open: (name after the slash, split, seed) -> records.
        eval_limit: images that an evaluation takes when no limit is given; None: all.
        prompt_style: the prompts that models of this data are trained with.
    """

    open: Callable[[str, str, int], RecordSource]
    eval_limit: int | None = None
    prompt_style: PromptStyle = "original"


_SCHEMES: dict[str, RecordScheme] = {}


def register_scheme(prefix: str, scheme: RecordScheme) -> None:
    """Make `open_records("PREFIX/NAME", ...)` open this scheme's records."""
    _SCHEMES[prefix] = scheme


def find_scheme(dataset: str) -> RecordScheme | None:
    """Return the registered scheme of a dataset's name; None for a folder."""
    prefix, slash, _ = dataset.partition("/")
    return _SCHEMES.get(prefix) if slash else None


def open_records(
    dataset: str, split: str, seed: int = 0, cache: BlockCache | None = None
) -> RecordSource:
    """Open the records of one split of a dataset.

    Args:
        dataset: "SCHEME/NAME", or a folder that `glamm-jax convert dataset` wrote.
        split: its name; of a folder also a slice, such as "train[:10%]".
        seed: for schemes that generate their records.
        cache: of blocks of files in a bucket; None: that of the default configuration.

    Raises:
        ConfigError: there is no such dataset or split.
    """
    scheme = find_scheme(dataset)
    if scheme is not None:
        return scheme.open(dataset.partition("/")[2], split, seed)
    # TensorFlow Datasets takes seconds to import, so it is imported where it is needed.
    from glamm_jax.data.record_shards import RecordShards, ShardError

    try:
        return RecordShards(dataset, split, cache)
    except ShardError as error:
        raise ConfigError(f"dataset {dataset!r}: {error}") from error
