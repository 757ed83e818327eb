"""A model folder is complete or absent, and is loaded onto any mesh."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from glamm_jax.errors import ConfigError, FolderError
from glamm_jax.files import atomic_folder
from glamm_jax.models.abstract import abstract_model
from glamm_jax.parallel import make_mesh, use_mesh
from glamm_jax.weights import folder as folders
from glamm_jax.weights.flat_state import flatten_state, state_shapes
from glamm_jax.weights.folder import ModelFolder, finish_folder
from glamm_jax.weights.safetensors import TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.transfer import import_tensors
from tests.weights.checkpoints import CONFIG, clip_source

CLIP = CONFIG.clip


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """CLIP's part as a model folder."""
    path = tmp_path_factory.mktemp("models") / "clip"
    with atomic_folder(path, 0) as partial:
        leaves = state_shapes(abstract_model(CLIP)[1])
        record = import_tensors(table_of(CLIP), clip_source(), leaves, TensorWriter(partial))
        finish_folder(partial, CLIP, {"tensors": record, "described": {}}, None)
    return path


def test_it_fills_the_model_with_its_leaves(model):
    folder = ModelFolder(model)
    assert folder.config == CLIP
    filled = flatten_state(folder.fill(abstract_model(CLIP)[1]))
    assert filled.keys() == folder.leaves.keys()
    for name, array in filled.items():
        assert array.dtype == folder.infos[name].dtype
        assert (np.asarray(array) == folder.read(name)).all(), name


def test_a_dtype_casts_every_leaf(model):
    filled = flatten_state(ModelFolder(model).fill(abstract_model(CLIP)[1], dtype="bfloat16"))
    assert {array.dtype for array in filled.values()} == {jnp.dtype(jnp.bfloat16)}


@pytest.mark.parametrize("mesh", [(8, 1, 1), (1, 8, 1), (2, 2, 2)])
def test_every_device_of_a_mesh_gets_its_own_slice(model, mesh):
    folder = ModelFolder(model)
    with use_mesh(make_mesh(*mesh)):
        filled = flatten_state(folder.fill(abstract_model(CLIP)[1]))
    kernel = filled["layers.mlp.up.kernel"]
    assert len(kernel.sharding.device_set) == 8
    if mesh[1] > 1:
        part = kernel.addressable_shards[0].data.shape
        assert np.prod(part) == kernel.size // (mesh[1] * mesh[2])
    for name, array in filled.items():
        assert (np.asarray(array) == folder.read(name)).all(), name


def test_a_shard_reads_only_its_slice(model, monkeypatch):
    shapes = []
    original = folders.convert_dtype
    monkeypatch.setattr(
        folders, "convert_dtype", lambda x, d: (shapes.append(x.shape), original(x, d))[1]
    )
    with use_mesh(make_mesh(1, 8, 1)):
        ModelFolder(model).fill(abstract_model(CLIP)[1])
    complete = state_shapes(abstract_model(CLIP)[1])["layers.mlp.up.kernel"]
    assert complete not in shapes
    assert (complete[0], complete[1] // 8, complete[2]) in shapes


def test_a_model_of_another_size_lists_every_leaf(model):
    other = replace(CLIP, mlp_dim=64)
    with pytest.raises(FolderError, match=r"3 wrong leaves: .*mlp\.up\.kernel.*expects") as caught:
        ModelFolder(model).fill(abstract_model(other)[1])
    assert "layers.mlp.down.kernel" in str(caught.value)


def test_a_folder_of_the_original_is_refused_with_the_command_that_converts_it(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(ConfigError, match="glamm-jax convert from-torch"):
        ModelFolder(tmp_path)
