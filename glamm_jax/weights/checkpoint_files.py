"""Any checkpoint of torch's world, from its path: what it is, its tensors, its config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glamm_jax.weights.infer_config import Family, family_of
from glamm_jax.weights.safetensors import INDEX, SINGLE, TensorFileError, read_index
from glamm_jax.weights.tensor_sources import (
    JoinedSource,
    SafetensorsSource,
    TensorSource,
    shapes_of,
)
from glamm_jax.weights.torch_files import PickledSource

PICKLED_INDEX = "pytorch_model.bin.index.json"
# Names under which a folder may hold all its tensors, in the order of preference.
SINGLES = (
    *(SINGLE, "adapter_model.safetensors"),
    *("pytorch_model.bin", "adapter_model.bin"),
)
CONFIG_NAMES = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, opened: nothing but headers has been read."""

    path: Path
    family: Family
    tensors: TensorSource
    hf_config: dict[str, Any]  # its config.json, or nothing


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder or a file: safetensors, else torch's.

    Raises: TensorFileError or WeightsError naming what cannot be used.
    """
    tensors = _open_folder(path) if path.is_dir() else _open_file(path)
    family = family_of(shapes_of(tensors), str(path))
    return Checkpoint(path, family, tensors, read_hf_config(path))


def _open_file(path: Path) -> TensorSource:
    if not path.is_file():
        raise TensorFileError(f"{path}: no such file or folder")
    return SafetensorsSource(path) if path.suffix == ".safetensors" else PickledSource(path)


def _open_folder(folder: Path) -> TensorSource:
    if (folder / INDEX).is_file():
        return SafetensorsSource(folder)
    for name in SINGLES:
        if (folder / name).is_file():
            return _open_file(folder / name)
    index = folder / PICKLED_INDEX
    if index.is_file():
        return _open_pickled_shards(index)
    if any(folder.glob("*zero_pp_rank*")) or (folder / "latest").is_file():
        raise TensorFileError(
            f"{folder}: DeepSpeed's shards; join them first with the zero_to_fp32.py that lies "
            "beside them, then give the file that it writes"
        )
    raise TensorFileError(f"{folder}: holds no weights ({SINGLE}, pytorch_model.bin or an index)")


def _open_pickled_shards(index: Path) -> TensorSource:
    weight_map = read_index(index)
    shards = []
    for name in sorted(set(weight_map.values())):
        path = index.with_name(name)
        if not path.is_file():
            raise TensorFileError(f"{index} names {name}, which is not in the folder")
        shard = PickledSource(path)
        wrong = {tensor for tensor in shard.infos if weight_map.get(tensor) != name}
        wrong |= {t for t, file in weight_map.items() if file == name and t not in shard.infos}
        if wrong:
            raise TensorFileError(f"{path}: its index disagrees on {', '.join(sorted(wrong))}")
        shards.append(shard)
    return JoinedSource(shards)


def read_hf_config(folder: Path) -> dict[str, Any]:
    """The config.json of a folder; {} where there is none, as beside a single file."""
    path = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TensorFileError(f"{path}: not JSON") from error
    if not isinstance(value, dict):
        raise TensorFileError(f"{path}: no object")
    return value
