"""Model folders: the format in which models are stored.

config.json                        kind and configuration; written last, so that a folder with
                                   it is complete
model-0000x-of-0000y.safetensors   one tensor per leaf, under the leaf's path, in the layout of
                                   this library; tensors that only an export needs are named
                                   carried.NAME
model.safetensors.index.json       the file of every leaf
source.json                        what `convert to-torch` needs to export the same bytes:
                                   stored dtypes ("tensors"), config.json of the source
                                   checkpoints ("described")
tokenizer.model, ...               the tokenizer's files, unchanged

folder = ModelFolder(path)
graph, state = abstract_model(folder.config)
state = folder.fill(state, dtype="bfloat16")    # read directly onto the current mesh
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from glamm_jax.config import GLaMMConfig
from glamm_jax.errors import FolderError
from glamm_jax.files import atomic_folder
from glamm_jax.json_files import JSONError, read_object
from glamm_jax.parallel import current_mesh, sharding
from glamm_jax.storage import AnyPath, to_path
from glamm_jax.text.tokenizer import TOKENIZER_FILES, load_tokenizer
from glamm_jax.weights.config_file import (
    CONFIG_FILE,
    SOURCE_INFO_FILE,
    AnyConfig,
    read_config,
    write_config,
)
from glamm_jax.weights.flat_state import flatten_state, state_shapes
from glamm_jax.weights.hub import download_model
from glamm_jax.weights.missing_paths import hub_repository, missing_model
from glamm_jax.weights.safetensors import TensorInfo, TensorWriter, map_tensor, read_folder
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import MemorySource, nbytes_of
from glamm_jax.weights.transfer import (
    CARRIED,
    OnTensor,
    convert_dtype,
    copy_leaves,
    default_stored_dtypes,
)


class ModelFolder:
    """A model folder, opened; only headers have been read. A `LeafSource`.

    The folder is on this machine, in a bucket (`gs://`), or a repository of the Hugging Face Hub
    ("org/name", "org/name@revision"), which is downloaded unless the cache has it.

    Attributes:
        path: the folder.
        config: configuration of the model.
        infos: dtype and shape of every leaf and carried tensor.

    Raises:
        FolderError: there is no such folder or repository (`hub.HubError`).
        ConfigError: config.json is missing or invalid.
        TensorFileError: a safetensors file is missing or invalid.
    """

    def __init__(self, path: AnyPath | str):
        self.path = to_path(str(path), other_urls=True)
        if not self.path.is_dir():
            if hub_repository(str(path)) is None:
                raise FolderError(missing_model(str(path)))
            self.path = download_model(str(path))
        self.config: AnyConfig = read_config(self.path)
        self._locations = read_folder(self.path)
        self.infos = {name: location.info for name, location in self._locations.items()}

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """Return a leaf, one layer of a stack, or a carried tensor as a read-only memory map."""
        location = self._locations[name]
        return map_tensor(location if position is None else location.layer(position))

    @property
    def leaves(self) -> dict[str, TensorInfo]:
        """Dtype and shape of every leaf, in the order of the files."""
        return {name: info for name, info in self.infos.items() if not name.startswith(CARRIED)}

    def source_info(self) -> dict[str, Any]:
        """Read source.json.

        Raises:
            FolderError: the file is missing or invalid.
        """
        path = self.path / SOURCE_INFO_FILE
        try:
            info = read_object(path)
            dtypes = info.object("tensors")
            for name in dtypes:
                dtypes.text(name)
            described = info.object("described")
            for name in described:
                described.object(name)
        except JSONError as error:
            raise FolderError(f"{error}; cannot be read; an export needs it") from error
        return info.fields

    def fill(self, state: nnx.State, dtype: str | None = None, prefix: str = "") -> nnx.State:
        """Load the leaves onto the current mesh; every device reads its own slices only.

        Args:
            state: abstract state of the model, or of a part of it.
            dtype: of all leaves; None: the stored dtype of each.
            prefix: of the leaves of that part, such as "sam."; the others are not read.

        Raises:
            FolderError: leaves are missing, unknown or of the wrong shape; the message lists all.
        """
        shapes = {x: info.shape for x, info in self.leaves.items() if x.startswith(prefix)}
        expected = {prefix + name: shape for name, shape in state_shapes(state).items()}
        problems = [f"missing {name}" for name in expected if name not in shapes]
        problems += [f"unknown {name}" for name in shapes if name not in expected]
        problems += [
            f"{name}: shape {shapes[name]}, but the model expects {shape}"
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ]
        if problems:
            raise FolderError(f"{self.path}: {len(problems)} wrong leaves: {'; '.join(problems)}")
        # The largest first, while most memory is free: a leaf being cast exists twice.
        names = sorted(shapes, key=lambda name: -self.infos[name].nbytes)
        variables = {
            prefix + ".".join(map(str, path)): (path, v) for path, v in nnx.to_flat_state(state)
        }
        for name in names:
            path, variable = variables[name]
            variables[name] = (path, variable.replace(self._load_leaf(name, variable, dtype)))
        return nnx.from_flat_state([*variables.values()])

    def _load_leaf(self, name: str, variable: nnx.Variable, dtype: str | None) -> jax.Array:
        location, info = self._locations[name], self.infos[name]
        target_dtype = np.dtype(jax.numpy.dtype(dtype)) if dtype else info.dtype
        if current_mesh() is None:
            return jax.device_put(convert_dtype(np.array(map_tensor(location)), target_dtype))
        leaf_sharding = sharding(variable.get_metadata()["axes"], info.shape)
        parts = leaf_sharding.addressable_devices_indices_map(info.shape).values()
        array = map_tensor(location, [part or () for part in parts])

        def read_slice(index: tuple[slice, ...] | None) -> np.ndarray:
            # A copy, since the file behind a memory map may change or be deleted.
            return convert_dtype(np.array(array[index or ()]), target_dtype)

        return jax.make_array_from_callback(info.shape, leaf_sharding, read_slice)


def write_model(
    path: AnyPath,
    config: GLaMMConfig,
    model: nnx.Module,
    tokenizer: AnyPath,
    *,
    on_tensor: OnTensor = lambda name, nbytes: None,
) -> None:
    """Write a model that is in memory as a model folder, each leaf in its own dtype.

    Args:
        path: the folder; must not exist.
        config: configuration of the model.
        model: the leaves.
        tokenizer: folder of the tokenizer.
        on_tensor: progress callback.

    Raises:
        FolderError: the folder exists, does not fit on the disk or cannot be written.
    """
    leaves = MemorySource(flatten_state(nnx.state(model)))
    source_info = {
        "tensors": default_stored_dtypes(table_of(config), leaves),
        "described": {},
    }
    with atomic_folder(path, nbytes_of(leaves), CONFIG_FILE) as folder:
        copy_leaves(leaves, TensorWriter(folder), on_tensor=on_tensor)
        finish_folder(folder, config, source_info, tokenizer)


def finish_folder(
    folder: Path, config: AnyConfig, source_info: dict[str, Any], tokenizer: AnyPath | None
) -> None:
    """Write everything of a model folder but its safetensors files; config.json is the last.

    Args:
        folder: with complete safetensors files.
        config: configuration of the model.
        source_info: contents of source.json.
        tokenizer: folder of the tokenizer; None: the model has none.
    """
    if tokenizer is not None:
        copy_tokenizer(tokenizer, folder)
    if isinstance(config, GLaMMConfig):
        write_added_tokens(folder)
    text = json.dumps(source_info, indent=1) + "\n"
    (folder / SOURCE_INFO_FILE).write_text(text, encoding="utf-8")
    write_config(folder, config)


def copy_tokenizer(source: AnyPath, target: Path) -> None:
    """Copy the tokenizer's files."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            (target / name).write_bytes((source / name).read_bytes())


def write_added_tokens(folder: Path) -> None:
    """Write added_tokens.json unless the folder has one.

    Without the file, the ids of the added tokens depend on the code that loads the tokenizer.
    """
    path = folder / "added_tokens.json"
    tokenizer = load_tokenizer(folder)
    if not path.is_file():
        num_pieces = tokenizer.model.get_piece_size()
        added = {token: i for token, i in tokenizer.added.items() if i >= num_pieces}
        path.write_text(json.dumps(added, indent=1) + "\n", encoding="utf-8")
