"""Files of torch are read as torch reads them, or rejected; weights have no foreign bytes."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from glamm_jax.errors import GLaMMError
from glamm_jax.weights.safetensors import TensorFileError
from glamm_jax.weights.torch_files import PickledSource

VALUES = np.arange(1000, dtype=np.float32).reshape(40, 25)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save({"a": torch.from_numpy(VALUES), "b": torch.ones(7)}, tmp_path / "model.bin")
    return tmp_path / "model.bin"


def rezip(
    path: Path, changes: dict[str, bytes] | None = None, compression: int = zipfile.ZIP_STORED
) -> None:
    """Write the archive again; `changes` replaces entries by the end of their name."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, (changes or {}).get(name.partition("/")[2], data))


def test_plain_archives_are_mapped(path):
    source = PickledSource(path)
    np.testing.assert_array_equal(source.read("a"), VALUES)
    assert not source.read("a").flags.writeable


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_that_were_zipped_again_give_the_same_values(path, compression):
    rezip(path, compression=compression)
    source = PickledSource(path)
    np.testing.assert_array_equal(source.read("a"), VALUES)
    np.testing.assert_array_equal(source.read("b"), np.ones(7))


def test_a_tensor_larger_than_its_storage_is_rejected(path):
    with zipfile.ZipFile(path) as archive:
        name = next(x for x in archive.namelist() if x.endswith("data.pkl"))
        code = archive.read(name)
    larger = code.replace(b"K(K\x19\x86", b"M\xff\x00K\x19\x86")  # 40 x 25 -> 255 x 25
    assert larger != code
    rezip(path, {"data.pkl": larger})
    with pytest.raises(TensorFileError, match=r"tensor a needs 25500 bytes .*which has 4000"):
        PickledSource(path)


def test_a_storage_shorter_than_the_pickle_says_is_rejected(path):
    rezip(path, {"data/0": VALUES.tobytes()[:100]})
    with pytest.raises(TensorFileError, match="which has 100; the file is damaged"):
        PickledSource(path)


@pytest.mark.parametrize("order", [b"big", b"middle", b""])
def test_another_byte_order_is_rejected(path, order):
    rezip(path, {"byteorder": order})
    with pytest.raises(TensorFileError, match=f"byte order '{order.decode()}'"):
        PickledSource(path)


def test_an_archive_that_expands_very_much_is_rejected(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, 2))
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", bytes(100 << 20))
    with pytest.raises(TensorFileError, match="more than weights can be; refused"):
        PickledSource(tmp_path / "model.bin")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.eye(3).to_sparse(), "a sparse or quantized tensor"),
        (torch.zeros(2, dtype=torch.complex64), "a complex tensor"),
        (torch.zeros(1).expand(1 << 40), "bytes in a file of"),
    ],
)
def test_other_tensors_are_rejected_by_name(tmp_path, tensor, message):
    torch.save({"a": tensor}, tmp_path / "model.bin")
    with pytest.raises(TensorFileError, match=message):
        PickledSource(tmp_path / "model.bin")


def test_views_are_read_as_torch_reads_them(tmp_path):
    base = torch.from_numpy(VALUES)
    tensors = {
        "transposed": base.T,
        "part": base[3:5],
        "step": base[::2, 1],
        "wide": base[:1].expand(3, 25),
    }
    torch.save(tensors, tmp_path / "model.bin")
    source = PickledSource(tmp_path / "model.bin")
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(source.read(name), tensor.numpy(), err_msg=name)


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_are_read_or_rejected(tmp_path, legacy):
    stream = io.BytesIO()
    values = OrderedDict(a=torch.from_numpy(VALUES[:2]))
    torch.save(values, stream, _use_new_zipfile_serialization=not legacy)
    data, random = stream.getvalue(), np.random.default_rng(0)
    for i in range(40):
        damaged = bytearray(data[: random.integers(len(data))] if i % 8 == 0 else data)
        for position in random.integers(0, max(1, len(damaged)), 3):
            if i % 8 and len(damaged):
                damaged[position] = random.integers(256)
        (tmp_path / "model.bin").write_bytes(damaged)
        try:
            source = PickledSource(tmp_path / "model.bin")
            for name in source.infos:
                assert source.read(name).shape == source.infos[name].shape
        except GLaMMError:
            continue
