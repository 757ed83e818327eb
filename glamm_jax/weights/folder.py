"""A model folder: the one format in which models lie on disk.

config.json                        kind and configuration; written last: it marks a whole folder
model-0000x-of-0000y.safetensors   one tensor a leaf, under the leaf's path, in our layout; what
                                   only the export needs is called carried.NAME
model.safetensors.index.json       which leaf lies in which file
source.json                        what `to-torch` needs to give the same bytes back
tokenizer.model, ...               the tokenizer, as it came

folder = ModelFolder(path)
state = folder.fill(abstract_state, dtype="bfloat16")    # straight onto the current mesh
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig
from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder
from glamm_jax.parallel import current_mesh, sharding
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.weights.config_file import AnyConfig, read_config, write_config
from glamm_jax.weights.flat_state import flatten_state, state_shapes
from glamm_jax.weights.rules import Shapes
from glamm_jax.weights.safetensors import TensorInfo, TensorWriter, map_tensor, read_folder
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import MemorySource, nbytes_of
from glamm_jax.weights.transfer import CARRIED, OnTensor, convert_dtype, copy_leaves, default_stored_dtypes

SOURCE_INFO_FILE = "source.json"
TOKENIZER_FILES = (
    *("tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "generation_config.json"),
)


class ModelFolder:
    """An opened model folder. Nothing but headers has been read.

    Raises: ConfigError, TensorFileError or FolderError naming the file at fault.
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        if not self.path.is_dir():
            raise FolderError(f"{path}: no such folder")
        self.config: AnyConfig = read_config(self.path)
        self._places = read_folder(self.path)
        self.infos = {name: place.info for name, place in self._places.items()}

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """A leaf, one layer of a stack, or a carried tensor: a read-only map of its file."""
        place = self._places[name]
        return map_tensor(place if position is None else place.layer(position))

    @property
    def leaves(self) -> dict[str, TensorInfo]:
        """Dtype and shape of every leaf, in the model's order."""
        return {name: info for name, info in self.infos.items() if not name.startswith(CARRIED)}

    def source_info(self) -> dict[str, Any]:
        """What was remembered of the source, for the way back."""
        path = self.path / SOURCE_INFO_FILE
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FolderError(f"{path}: cannot be read, so nothing can be exported") from error

    def fill(self, state: nnx.State, dtype: str | None = None) -> nnx.State:
        """The abstract state with this folder's leaves, each device reading its own slices.

        Args:
            dtype: of all leaves; the stored one of each unless given.

        Raises: FolderError listing leaves that are missing, unknown or of another shape.
        """
        self._check(state_shapes(state))
        # The largest first, while there is most room: a leaf being cast exists twice.
        order = sorted(self.leaves, key=lambda name: -self.infos[name].nbytes)
        flat = {".".join(map(str, path)): (path, v) for path, v in nnx.to_flat_state(state)}
        for name in order:
            path, variable = flat[name]
            flat[name] = (path, variable.replace(self._place(name, variable, dtype)))
        return nnx.from_flat_state([*flat.values()])

    def _place(self, name: str, variable: nnx.Variable, dtype: str | None) -> jax.Array:
        array, info = map_tensor(self._places[name], ahead=False), self.infos[name]
        wanted = np.dtype(jax.numpy.dtype(dtype)) if dtype else info.dtype

        def shard(index: tuple[slice, ...] | None) -> np.ndarray:
            # A copy: the file may change or vanish behind a map.
            return convert_dtype(np.array(array[index or ()]), wanted)

        if current_mesh() is None:
            return jax.device_put(shard(()))
        where = sharding(variable.get_metadata()["axes"], info.shape)
        return jax.make_array_from_callback(info.shape, where, shard)

    def _check(self, wanted: Shapes) -> None:
        held = {name: info.shape for name, info in self.leaves.items()}
        problems = [f"missing {name}" for name in wanted if name not in held]
        problems += [f"unknown {name}" for name in held if name not in wanted]
        problems += [
            f"{name}: shape {held[name]}, the model wants {shape}"
            for name, shape in wanted.items()
            if name in held and held[name] != shape
        ]
        if problems:
            raise FolderError(f"{self.path}: {len(problems)} wrong leaves: {'; '.join(problems)}")


def write_model(
    path: Path,
    config: GLaMMConfig,
    model: nnx.Module,
    tokenizer: Path,
    *,
    on_tensor: OnTensor = lambda name, nbytes: None,
) -> None:
    """Write a model that came from no checkpoint, each leaf in its own dtype.

    Raises: FolderError when the folder exists, does not fit or cannot be written.
    """
    leaves = MemorySource(flatten_state(nnx.state(model)))
    record = {"tensors": default_stored_dtypes(table_of(config), leaves), "described": {}}
    with atomic_folder(path, nbytes_of(leaves)) as folder:
        copy_leaves(leaves, TensorWriter(folder), on_tensor=on_tensor)
        finish_folder(folder, config, record, tokenizer)


def finish_folder(
    folder: Path, config: AnyConfig, source_info: dict[str, Any], tokenizer: Path | None
) -> None:
    """Finish a folder whose safetensors files are written: tokenizer, source.json, config.json."""
    if tokenizer is not None:
        copy_tokenizer(tokenizer, folder)
    if isinstance(config, GLaMMConfig):
        write_added_tokens(folder)
    text = json.dumps(source_info, indent=1) + "\n"
    (folder / SOURCE_INFO_FILE).write_text(text, encoding="utf-8")
    write_config(folder, config)


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer's files, as they are."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def write_added_tokens(folder: Path) -> None:
    """Write the added tokens down where a tokenizer's folder leaves them to whoever loads it."""
    path = folder / "added_tokens.json"
    tokenizer = load_tokenizer(folder)
    if not path.is_file():
        pieces = tokenizer.model.get_piece_size()
        added = {token: i for token, i in tokenizer.added.items() if i >= pieces}
        path.write_text(json.dumps(added, indent=1) + "\n", encoding="utf-8")
