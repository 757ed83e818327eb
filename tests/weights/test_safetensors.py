"""Reading and writing of safetensors agrees with the library's, and damage is named."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import hypothesis.extra.numpy as draw
import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given

from glamm_jax.weights.safetensors import (
    DTYPES,
    TensorFileError,
    TensorInfo,
    TensorWriter,
    contiguous_blocks,
    map_tensor,
    read_folder,
    read_header,
)


def infos(arrays: dict[str, np.ndarray]) -> dict[str, TensorInfo]:
    return {name: TensorInfo(x.dtype, x.shape) for name, x in arrays.items()}


def write(folder: Path, arrays: dict[str, np.ndarray], **options) -> None:
    folder.mkdir(exist_ok=True)
    with TensorWriter(folder, **options).open(infos(arrays)) as writer:
        for name, array in arrays.items():
            writer.write(name, array)


def some_arrays() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    return {
        "a": noise.standard_normal((3, 5)).astype(np.float32),
        "b": noise.standard_normal((2, 4, 3)).astype(ml_dtypes.bfloat16),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "half": noise.standard_normal(9).astype(np.float16),
    }


def test_the_library_reads_what_we_write(tmp_path):
    arrays = some_arrays()
    write(tmp_path, arrays)
    read = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    assert read.keys() == arrays.keys()
    for name, array in arrays.items():
        assert read[name].tobytes() == array.tobytes(), name
        assert read[name].shape == array.shape, name


def test_we_read_what_the_library_writes(tmp_path):
    arrays = {k: x for k, x in some_arrays().items() if x.size}
    safetensors.numpy.save_file(arrays, tmp_path / "model.safetensors")
    locations = read_folder(tmp_path)
    assert {name: location.info for name, location in locations.items()} == infos(arrays)
    for name, location in locations.items():
        assert map_tensor(location).tobytes() == arrays[name].tobytes()


def test_shards_are_found_by_their_index(tmp_path):
    arrays = {f"x{i}": np.full(100, i, np.float32) for i in range(7)}
    write(tmp_path, arrays, shard_bytes=900)
    assert len(list(tmp_path.glob("model-*-of-00004.safetensors"))) == 4
    locations = read_folder(tmp_path)
    assert locations.keys() == arrays.keys()
    assert all((map_tensor(locations[name]) == arrays[name]).all() for name in arrays)


def test_a_stack_is_written_layer_by_layer_in_any_order(tmp_path):
    stack = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    with TensorWriter(tmp_path).open(infos({"stack": stack})) as writer:
        for layer in (2, 0, 1):
            writer.write("stack", stack[layer], layer)
    assert (map_tensor(read_folder(tmp_path)["stack"]) == stack).all()


def test_a_tensor_that_was_never_written_is_named(tmp_path):
    arrays = {"a": np.zeros(3), "b": np.zeros((2, 2))}

    def write_half() -> None:
        with TensorWriter(tmp_path).open(infos(arrays)) as writer:
            writer.write("a", arrays["a"])
            writer.write("b", arrays["b"][0], 0)

    with pytest.raises(ValueError, match="not written completely: b"):
        write_half()


def test_another_shape_than_declared_is_refused(tmp_path):
    with (
        pytest.raises(ValueError, match=r"expected float64 \(3,\)"),
        TensorWriter(tmp_path).open(infos({"a": np.zeros(3)})) as writer,
    ):
        writer.write("a", np.zeros(4))


@given(
    draw.arrays(
        st.sampled_from([np.uint8, np.uint16, np.float32]),
        draw.array_shapes(min_dims=2, max_dims=4, max_side=9),
    ),
    st.integers(1, 200),
)
def test_blocks_of_a_transposed_array_are_its_bytes(array, limit):
    view = array.transpose(*range(1, array.ndim), 0)
    joined = b"".join(block.tobytes() for block in contiguous_blocks(view, limit))
    assert joined == np.ascontiguousarray(view).tobytes()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_by_name(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(TensorFileError, match=r"model\.safetensors"):
        read_header(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**63) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*DTYPES]) | JSON,
        "shape": st.lists(st.integers(-2, 2**40), max_size=3) | JSON,
        "data_offsets": st.lists(st.integers(-1, 2**40), min_size=2, max_size=2) | JSON,
    }
)


@given(st.dictionaries(st.text(max_size=3), ENTRY | JSON, max_size=3), st.integers(0, 40))
def test_any_header_is_consistent_or_refused(tmp_path_factory, header, num_bytes):
    path = tmp_path_factory.mktemp("fuzz") / "model.safetensors"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(num_bytes))
    try:
        locations = read_header(path)
    except TensorFileError:
        return
    assert sum(location.info.nbytes for location in locations.values()) == num_bytes
