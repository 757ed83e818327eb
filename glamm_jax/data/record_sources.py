"""Where records come from: shards on disk, or the mini-world, drawn as they are asked for."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from glamm_jax.config.experiment import DataConfig
from glamm_jax.data.record import Record
from glamm_jax.errors import ConfigError
from glamm_jax.miniworld import WORLDS, record, scene

MINIWORLD = "miniworld/"
# What is added to the seed of scenes: no two splits have a scene in common.
SPLIT_SEEDS = {"train": 0, "val": 1_000_003, "test": 2_000_003}
SCENES = 1 << 20  # of an epoch of a mini-world


@runtime_checkable
class RecordSource(Protocol):
    """Records by number; it is sent to worker processes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


class MiniWorldRecords:
    """Scenes of a mini-world by number.

    Raises: ConfigError listing the worlds when there is none of this name.
    """

    def __init__(self, name: str, seed: int, image_size: int):
        if name not in WORLDS:
            raise ConfigError(f"no mini-world {name!r}; there are {', '.join(WORLDS)}")
        self._name, self._seed, self._image_size = name, seed, image_size

    def __len__(self) -> int:
        return SCENES

    def __getitem__(self, index: int) -> Record:
        return record(scene(self._seed, index, self._image_size, WORLDS[self._name]))


def open_records(dataset: str, split: str, data: DataConfig) -> RecordSource:
    """The records of one part of a mixture.

    Raises: ConfigError when there is no such dataset or split.
    """
    if dataset.startswith(MINIWORLD):
        if split not in SPLIT_SEEDS:
            raise ConfigError(f"{dataset}: no split {split!r}; there are {', '.join(SPLIT_SEEDS)}")
        seed = data.seed + SPLIT_SEEDS[split]
        return MiniWorldRecords(dataset.removeprefix(MINIWORLD), seed, data.image_size)
    # TensorFlow Datasets takes seconds to import, and the mini-world needs none of it.
    from glamm_jax.data.record_shards import ShardError, Shards

    try:
        return Shards(dataset, split)
    except ShardError as error:
        raise ConfigError(f"the mixture's {dataset!r}: {error}") from error
