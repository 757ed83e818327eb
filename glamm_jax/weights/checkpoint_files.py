"""Opening PyTorch checkpoints of any format: their family, tensors and config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glamm_jax.weights.infer_config import Family, family_of
from glamm_jax.weights.missing_paths import missing_checkpoint
from glamm_jax.weights.safetensors import INDEX, SINGLE, TensorFileError, read_index
from glamm_jax.weights.tensor_sources import (
    JoinedSource,
    SafetensorsSource,
    TensorSource,
    shapes_of,
)
from glamm_jax.weights.torch_files import PickledSource

PICKLED_INDEX = "pytorch_model.bin.index.json"
# Names of a file with all tensors of a folder, by precedence.
SINGLE_FILES = (
    *(SINGLE, "adapter_model.safetensors"),
    *("pytorch_model.bin", "adapter_model.bin"),
)
CONFIG_NAMES = ("config.json", "adapter_config.json")


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; only headers have been read.

    Attributes:
        path: its folder or file.
        family: its kind.
        tensors: its tensors under their own names.
        hf_config: its config.json; empty: there is none.
    """

    path: Path
    family: Family
    tensors: TensorSource
    hf_config: dict[str, Any]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a folder or a file. In a folder, safetensors take precedence over torch's files.

    Raises:
        TensorFileError: a file is missing or cannot be used.
        WeightsError: the tensors are of an unknown family.
    """
    tensors = _open_folder(path) if path.is_dir() else _open_file(path)
    family = family_of(shapes_of(tensors), str(path))
    return Checkpoint(path, family, tensors, read_hf_config(path))


def read_hf_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json; return {} if there is none.

    Raises:
        TensorFileError: the file is not a JSON object.
    """
    path = next((folder / name for name in CONFIG_NAMES if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise TensorFileError(f"{path}: not valid JSON") from error
    if not isinstance(value, dict):
        raise TensorFileError(f"{path}: not a JSON object")
    return value


def _open_file(path: Path) -> TensorSource:
    if not path.is_file():
        raise TensorFileError(missing_checkpoint(str(path)) or f"{path}: no such file or folder")
    return SafetensorsSource(path) if path.suffix == ".safetensors" else PickledSource(path)


def _open_folder(folder: Path) -> TensorSource:
    if (folder / INDEX).is_file():
        return SafetensorsSource(folder)
    for name in SINGLE_FILES:
        if (folder / name).is_file():
            return _open_file(folder / name)
    index = folder / PICKLED_INDEX
    if index.is_file():
        return _open_pickled_shards(index)
    if any(folder.glob("*zero_pp_rank*")) or (folder / "latest").is_file():
        raise TensorFileError(
            f"{folder}: shards of DeepSpeed; merge them with the zero_to_fp32.py of the same "
            "folder, then convert the file that it writes"
        )
    raise TensorFileError(
        f"{folder}: contains no weights ({SINGLE}, pytorch_model.bin or an index)"
    )


def _open_pickled_shards(index: Path) -> TensorSource:
    weight_map = read_index(index)
    shards = []
    for file_name in sorted(set(weight_map.values())):
        path = index.with_name(file_name)
        if not path.is_file():
            raise TensorFileError(f"{index}: lists {file_name}, which is not in the folder")
        shard = PickledSource(path)
        indexed = {name for name, file in weight_map.items() if file == file_name}
        if differing := indexed ^ set(shard.infos):
            raise TensorFileError(
                f"{path}: its tensors and the index differ: {', '.join(sorted(differing))}"
            )
        shards.append(shard)
    return JoinedSource(shards)
