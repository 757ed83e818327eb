"""Opening PyTorch checkpoints of any format: their family, tensors and config.json.

A folder may contain the weights more than once. Precedence is that of transformers: one safetensors
file, safetensors shards with their index, one file of torch, shards of torch with their index; a
warning names the files that are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glamm_jax.json_files import read_object
from glamm_jax.weights.foreign_files import (
    diagnose_empty_tensors,
    diagnose_file,
    diagnose_folder,
    diagnose_shard,
)
from glamm_jax.weights.infer_config import Family, family_of
from glamm_jax.weights.missing_paths import missing_url
from glamm_jax.weights.module_names import canonical_names
from glamm_jax.weights.peft_config import ADAPTER_CONFIG
from glamm_jax.weights.safetensors import INDEX, SINGLE, TensorFileError, read_index
from glamm_jax.weights.tensor_sources import (
    JoinedSource,
    RenamedSource,
    SafetensorsSource,
    TensorSource,
    shapes_of,
)
from glamm_jax.weights.torch_files import PickledSource

PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
MODEL_FILES = (SINGLE, INDEX, PICKLED, PICKLED_INDEX)
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
# LLaVA's trainings save the modules that are trained without an adapter in this file beside it.
NON_LORA_FILE = "non_lora_trainables.bin"
CONFIG_FILE = "config.json"
# Files of a training's state, which no conversion needs.
_TRAINING_STATE = re.compile(
    r"(training_args|optimizer|scheduler|scaler|rng_state|random_states).*"
)
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_INDEX_SUFFIXES = (".safetensors.index.json", ".bin.index.json")
REPLACED = "modules as before the training (original_module of peft)"


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; only headers have been read.

    Attributes:
        path: its folder or file.
        family: its kind.
        tensors: its tensors, under their names without the wrappers of a training.
        hf_config: its config.json, or the adapter_config.json of an adapter; empty: there is none.
        warnings: sentences for the user.
        num_dropped: {reason: number of tensors}.
    """

    path: Path
    family: Family
    tensors: TensorSource
    hf_config: dict[str, Any]
    warnings: tuple[str, ...] = ()
    num_dropped: dict[str, int] = field(default_factory=dict)


def open_checkpoint(path: Path, *, is_adapter: bool = False) -> Checkpoint:
    """Open a folder or a file.

    Args:
        path: the folder or file.
        is_adapter: in a folder with a model and an adapter, open the adapter.

    Raises:
        TensorFileError: a file is missing or cannot be used.
        JSONError: an index or config.json is invalid.
        WeightsError: the tensors are of an unknown family.
    """
    warnings: list[str] = []
    if path.is_dir():
        tensors = _open_folder(path, is_adapter, warnings)
    else:
        diagnose_shard(path)
        tensors = _open_file(path)
    diagnose_empty_tensors(path, tensors.infos)
    names = canonical_names(tensors.infos, str(path))
    tensors = RenamedSource(tensors, lambda name: names.names[name])
    family = family_of(shapes_of(tensors), str(path))
    return Checkpoint(
        path,
        family,
        tensors,
        _own_config(path, family),
        tuple(warnings),
        {REPLACED: names.num_replaced} if names.num_replaced else {},
    )


def _own_config(path: Path, family: Family) -> dict[str, Any]:
    """Read the configuration of a checkpoint: in its folder, or beside its file.

    A GLaMM's file is of a training, and the folder of its tokenizer has the configuration; a SAM's
    has none.
    """
    if path.is_dir():
        return read_hf_config(path, ADAPTER_CONFIG if family == "adapter" else CONFIG_FILE)
    return read_hf_config(path.parent) if family in ("llama", "clip") else {}


def read_hf_config(folder: Path, name: str = CONFIG_FILE) -> dict[str, Any]:
    """Read a folder's config.json; return {} if there is none.

    Args:
        folder: of the checkpoint.
        name: of the file.

    Raises:
        JSONError: the file is not a JSON object.
    """
    path = folder / name
    return read_object(path).fields if path.is_file() else {}


def _open_file(path: Path) -> TensorSource:
    if not path.is_file():
        raise TensorFileError(missing_url(str(path)) or f"{path}: no such file or folder")
    diagnose_file(path)
    return SafetensorsSource(path) if path.suffix == ".safetensors" else PickledSource(path)


def _open_folder(folder: Path, is_adapter: bool, warnings: list[str]) -> TensorSource:
    """Open the file of highest precedence; append warnings about others."""
    names = (*ADAPTER_FILES, *MODEL_FILES) if is_adapter else (*MODEL_FILES, *ADAPTER_FILES)
    name = next((name for name in names if (folder / name).is_file()), None)
    if name is None:
        if (folder / PICKLED).is_dir():  # zero_to_fp32 of newer DeepSpeed takes it as a folder
            return _open_folder(folder / PICKLED, is_adapter, warnings)
        diagnose_folder(folder)
        raise TensorFileError(f"{folder}: contains no weights ({', '.join(MODEL_FILES)})")
    path, used = folder / name, {name}
    if name in (INDEX, PICKLED_INDEX):
        tensors, shards = _open_shards(path)
        used |= shards
    else:
        tensors = _open_file(path)
    if name in ADAPTER_FILES and (folder / NON_LORA_FILE).is_file():
        tensors = JoinedSource([tensors, PickledSource(folder / NON_LORA_FILE)])
        used.add(NON_LORA_FILE)
    ignored = sorted(
        file.name
        for file in folder.iterdir()
        if file.name.endswith((*_WEIGHT_SUFFIXES, *_INDEX_SUFFIXES))
        and file.name not in used
        and not _TRAINING_STATE.fullmatch(file.name)
    )
    if ignored:
        warnings.append(f"{folder}: read from {name}; ignored: {', '.join(ignored)}")
    return tensors


def _open_shards(index: Path) -> tuple[TensorSource, set[str]]:
    """Return the tensors of the files that an index lists, and the names of the files."""
    weight_map = read_index(index)
    file_names = set(weight_map.values())
    if missing := sorted(name for name in file_names if not index.with_name(name).is_file()):
        raise TensorFileError(
            f"{index}: lists {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} "
            "not in the folder; copy or download what is missing"
        )
    shards = [_open_file(index.with_name(file_name)) for file_name in sorted(file_names)]
    for file_name, shard in zip(sorted(file_names), shards, strict=True):
        indexed = {name for name, file in weight_map.items() if file == file_name}
        path = index.with_name(file_name)
        if absent := sorted(indexed - set(shard.infos)):
            raise TensorFileError(f"{index}: {file_name} does not contain {', '.join(absent)}")
        for name in sorted(set(shard.infos) - indexed):
            other = weight_map.get(name, "no file")
            raise TensorFileError(f"{path}: contains {name}, which the index assigns to {other}")
    return JoinedSource(shards), file_names
