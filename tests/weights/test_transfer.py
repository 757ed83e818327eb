"""Torch's tensors come back byte for byte, whatever they are stored as."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from glamm_jax.models.abstract import abstract_model
from glamm_jax.weights.flat_state import state_shapes
from glamm_jax.weights.folder import ModelFolder, finish_folder
from glamm_jax.weights.rules import WeightsError, tensor_shapes
from glamm_jax.weights.safetensors import TensorWriter, read_folder
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.tensor_sources import MemorySource, SafetensorsSource
from glamm_jax.weights.transfer import (
    common_dtype,
    convert_dtype,
    default_stored_dtypes,
    export_tensors,
    import_tensors,
)
from tests.weights.checkpoints import CONFIG, clip_source, read_all

CLIP = CONFIG.clip
TABLE = table_of(CLIP)
LEAVES = state_shapes(abstract_model(CLIP)[1])
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def there_and_back(tensors: dict[str, np.ndarray], tmp_path) -> dict[str, np.ndarray]:
    model, back = tmp_path / "model", tmp_path / "back"
    model.mkdir()
    back.mkdir()
    stored_dtypes = import_tensors(TABLE, MemorySource(tensors), LEAVES, TensorWriter(model))
    finish_folder(model, CLIP, {"tensors": stored_dtypes, "described": {}}, None)
    folder = ModelFolder(model)
    export_tensors(TABLE, folder.source_info()["tensors"], folder, TensorWriter(back))
    source = SafetensorsSource(back)
    return {name: source.read(name) for name in source.infos}


def assert_same(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert actual.keys() == expected.keys()
    for name, array in expected.items():
        assert actual[name].dtype == array.dtype, name
        assert actual[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_one_dtype(dtype, tmp_path):
    tensors = read_all(clip_source())
    tensors = {n: x if x.dtype == np.int64 else x.astype(dtype) for n, x in tensors.items()}
    assert_same(there_and_back(tensors, tmp_path), tensors)


def test_dtypes_mixed_within_a_stack(tmp_path):
    dtypes = (np.dtype(np.float32), BFLOAT16, np.dtype(np.float16))
    tensors = {
        name: x if x.dtype == np.int64 else x.astype(dtypes[i % 3])
        for i, (name, x) in enumerate(read_all(clip_source()).items())
    }
    assert_same(there_and_back(tensors, tmp_path), tensors)


def test_not_a_number_keeps_its_bits(tmp_path):
    tensors = read_all(clip_source())
    name = "vision_model.encoder.layers.0.mlp.fc1.bias"
    bits = np.full(tensors[name].shape, 0x7F81, np.uint16)  # a signalling NaN
    tensors[name] = bits.view(BFLOAT16)  # its stack is float32
    assert_same(there_and_back(tensors, tmp_path), tensors)


def test_buffers_may_be_absent_and_stay_absent(tmp_path):
    tensors = read_all(clip_source())
    del tensors["vision_model.embeddings.position_ids"]
    assert_same(there_and_back(tensors, tmp_path), tensors)


def test_a_buffer_of_another_value_is_refused(tmp_path):
    tensors = read_all(clip_source())
    name = "vision_model.embeddings.position_ids"
    tensors[name] = tensors[name] + 1
    with pytest.raises(
        WeightsError,
        match=r"position_ids: differs from what the configuration gives \(position ids",
    ):
        import_tensors(TABLE, MemorySource(tensors), LEAVES, TensorWriter(tmp_path))


def test_a_buffer_rounded_elsewhere_returns_as_it_was(tmp_path):
    config = CONFIG.llama
    table, leaves = table_of(config), state_shapes(abstract_model(config)[1])
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    tensors = {
        tensor: np.zeros(shape, np.float32)
        for tensor, shape in tensor_shapes(table, leaves).items()
    }
    value = table.unmapped_by_name()[name].compute
    assert value is not None
    tensors[name] = np.nextafter(value(), 2)
    stored_dtypes = import_tensors(table, MemorySource(tensors), leaves, TensorWriter(tmp_path))
    assert f"carried.{name}" in read_folder(tmp_path)
    finish_folder(tmp_path, config, {"tensors": stored_dtypes, "described": {}}, None)
    out = tmp_path / "out"
    out.mkdir()
    export_tensors(table, stored_dtypes, ModelFolder(tmp_path), TensorWriter(out))
    assert SafetensorsSource(out).read(name).tobytes() == tensors[name].tobytes()


def test_all_problems_come_at_once_and_nothing_is_written(tmp_path):
    tensors = read_all(clip_source())
    del tensors["vision_model.pre_layrnorm.bias"]
    tensors["vision_model.head"] = np.zeros(3, np.float32)
    weight = "vision_model.encoder.layers.1.mlp.fc1.weight"
    tensors[weight] = tensors[weight].T
    with pytest.raises(WeightsError) as caught:
        import_tensors(TABLE, MemorySource(tensors), LEAVES, TensorWriter(tmp_path))
    for part in ("weights (3)", "pre_layrnorm.bias", "vision_model.head", weight):
        assert part in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_quantized_weights_are_refused_by_name(tmp_path):
    tensors = read_all(clip_source())
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    tensors[name] = tensors[name].astype(np.int8)
    with pytest.raises(WeightsError, match=rf"{name}: dtype int8: .*quantized"):
        import_tensors(TABLE, MemorySource(tensors), LEAVES, TensorWriter(tmp_path))


def test_a_model_without_a_source_is_exported_as_the_original_saves_it(tmp_path):
    tensors = read_all(clip_source())
    import_tensors(TABLE, MemorySource(tensors), LEAVES, TensorWriter(tmp_path))
    finish_folder(tmp_path, CLIP, {}, None)
    stored_dtypes = default_stored_dtypes(TABLE, ModelFolder(tmp_path))
    assert stored_dtypes["vision_model.embeddings.position_ids"] == "I64"
    assert stored_dtypes["vision_model.pre_layrnorm.bias"] == "F32"


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        ((BFLOAT16, BFLOAT16), BFLOAT16),
        ((BFLOAT16, np.dtype(np.float16)), np.dtype(np.float32)),
        ((np.dtype(np.float32), np.dtype(np.float64)), np.dtype(np.float64)),
    ],
)
def test_the_common_dtype_holds_all_exactly(dtypes, expected):
    assert common_dtype(dtypes) == expected


def test_integers_and_floats_have_no_common_dtype():
    with pytest.raises(WeightsError, match="float32"):
        common_dtype([np.dtype(np.float32), np.dtype(np.int64)])


def test_conversion_rounds_where_it_must():
    x = np.array([1.0, 1.00390625, 3.14159], np.float32)
    assert (convert_dtype(x, BFLOAT16) == x.astype(ml_dtypes.bfloat16)).all()
