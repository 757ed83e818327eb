"""A model folder in a bucket is read by ranges, and gives the leaves of one on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from glamm_jax.files import atomic_folder
from glamm_jax.models.abstract import abstract_model
from glamm_jax.parallel import make_mesh, use_mesh
from glamm_jax.storage import append, objects_below, put
from glamm_jax.weights import bucket_tensors
from glamm_jax.weights.bucket_tensors import Index, byte_ranges, read_parts
from glamm_jax.weights.config_file import CONFIG_FILE
from glamm_jax.weights.flat_state import flatten_state, state_shapes
from glamm_jax.weights.folder import ModelFolder, finish_folder
from glamm_jax.weights.safetensors import TensorFileError, TensorWriter
from glamm_jax.weights.tables import table_of
from glamm_jax.weights.transfer import import_tensors
from tests.bucket_server import SlowServer
from tests.weights.checkpoints import CONFIG, clip_source

CLIP = CONFIG.clip
sizes = st.integers(1, 5)


@st.composite
def shapes_and_parts(draw: st.DrawFn) -> tuple[tuple[int, ...], list[Index]]:
    shape = tuple(draw(st.lists(sizes, max_size=4)))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        bounds = [sorted(draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
        slices = [slice(a, b) for a, b in bounds if a < b or draw(st.booleans())]
        slices = [slice(None) if draw(st.booleans()) else x for x in slices]
        parts.append(tuple(x for x in slices if x.start is None or x.start < x.stop))
    return shape, parts


@given(shapes_and_parts(), st.sampled_from([0, 8, 1 << 20]))
def test_the_ranges_hold_the_parts_and_nothing_else(
    case: tuple[tuple[int, ...], list[Index]], gap: int
) -> None:
    shape, parts = case
    wanted = np.zeros(shape, bool)
    for part in parts:
        wanted[part] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bucket_tensors, "GAP_BYTES", gap)
        ranges = byte_ranges(shape, 4, parts)
    covered = np.zeros(4 * wanted.size, bool)
    for start, end in ranges:
        assert 0 <= start < end <= len(covered)
        assert not covered[start:end].any()
        covered[start:end] = True
    elements = covered.reshape(-1, 4).all(1).reshape(shape)
    assert elements[wanted].all()
    if not gap:
        assert (elements == wanted).all()


def test_parts_come_from_many_requests(bucket: epath.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket_tensors, "REQUEST_BYTES", 1000)
    array = np.random.default_rng(0).normal(size=(40, 30)).astype(np.float32)
    put(bucket / "a", b"header" + array.tobytes())
    parts = [(slice(3, 9), slice(10, 20)), (slice(30, 31),)]
    result = read_parts(bucket / "a", 6, array.shape, array.dtype, parts)
    for part in parts:
        np.testing.assert_array_equal(result[part], array[part])
    np.testing.assert_array_equal(read_parts(bucket / "a", 6, (40, 30), array.dtype, None), array)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's part as a model folder."""
    path = tmp_path_factory.mktemp("models") / "clip"
    write(path)
    return path


def write(path: Path | epath.Path) -> None:
    with atomic_folder(path, 0, CONFIG_FILE) as partial:
        leaves = state_shapes(abstract_model(CLIP)[1])
        writer = TensorWriter(partial, shard_bytes=1 << 18)
        record = import_tensors(table_of(CLIP), clip_source(), leaves, writer)
        finish_folder(partial, CLIP, {"tensors": record, "described": {}}, None)


def test_a_model_streams_from_a_bucket_onto_a_mesh(
    bucket: epath.Path, bucket_server: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(bucket / "clip")
    local, folder = ModelFolder(model), ModelFolder(bucket / "clip")
    assert (folder.config, folder.infos) == (local.config, local.infos)
    assert folder.source_info() == local.source_info()
    for mesh in ((1, 8, 1), (2, 2, 2)):
        with use_mesh(make_mesh(*mesh)):
            expected = flatten_state(local.fill(abstract_model(CLIP)[1]))
            filled = flatten_state(folder.fill(abstract_model(CLIP)[1]))
        for name, array in filled.items():
            assert array.sharding == expected[name].sharding
            np.testing.assert_array_equal(array, expected[name], err_msg=name)
    monkeypatch.setattr(bucket_tensors, "GAP_BYTES", 0)
    name, info = min(
        folder.leaves.items(), key=lambda leaf: (len(leaf[1].shape) < 2, leaf[1].nbytes)
    )
    server = SlowServer(bucket_server, 0.0)
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    location = folder._locations[name]
    assert isinstance(location.path, epath.Path)
    part = (slice(None),) * (len(info.shape) - 1) + (slice(0, info.shape[-1] // 2),)
    read_parts(location.path, location.offset, info.shape, info.dtype, [part])
    server.close()
    assert server.num_bytes == info.nbytes // 2  # a device with half of the columns


def test_a_truncated_file_of_a_bucket_is_named(bucket: epath.Path) -> None:
    write(bucket / "clip")
    file = next(name for name in objects_below(bucket / "clip") if name.endswith(".safetensors"))
    append(bucket / "clip" / file, b"more")
    with pytest.raises(TensorFileError, match="copy or download it again"):
        ModelFolder(bucket / "clip")
    put(bucket / "clip" / file, b"12")
    with pytest.raises(TensorFileError, match="not a safetensors file, or truncated"):
        ModelFolder(bucket / "clip")
