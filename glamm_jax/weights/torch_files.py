"""Reading torch's .bin and .pth files without executing code in them.

Only `torch.load(weights_only=True)` reads the pickle, and only for the name, shape and file offset
of every tensor; the tensors are then memory-mapped. Sizes and offsets are compared with the entries
of the zip archive first. What cannot be mapped, as tensors of compressed archives, torch loads.
"""

from __future__ import annotations

import math
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from glamm_jax.weights.safetensors import TensorFileError, TensorInfo, TensorLocation, map_tensor

# A compressed archive is loaded into memory; weights shrink by less than a factor of two.
MAX_COMPRESSION = 20
MIN_ALLOWED_BYTES = 64 << 20  # uncompressed, of small archives
_LOCAL_HEADER = 30  # bytes of a local header of a zip archive without name and extra field

# Keys under which training checkpoints store the weights.
_WRAPPERS = ("module", "state_dict", "model")


class PickledSource:
    """The tensors of a .bin or .pth file.

    Raises:
        TensorFileError: torch is not installed, or the file is damaged, contains objects other than
            tensors, or would execute code.
    """

    def __init__(self, path: Path):
        self.infos: dict[str, TensorInfo] = {}
        self._locations: dict[str, TensorLocation] = {}
        self._arrays: dict[str, np.ndarray] = {}
        archive = _read_archive(path)
        complete: Mapping[str, Any] | None = None
        for name, tensor in _load_without_data(path).items():
            info = _tensor_info(path, name, tensor)
            self.infos[name] = info
            offset = _offset_in_file(path, name, tensor, archive)
            if offset is not None:
                self._locations[name] = TensorLocation(path, offset, info)
                continue
            if info.nbytes > archive.nbytes:
                raise TensorFileError(
                    f"{path}: tensor {name}: {info.nbytes} bytes in a file of {archive.nbytes}"
                )
            if complete is None:
                complete = _load(path)
            self._arrays[name] = _to_numpy(complete[name])

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, as a read-only map of the file if it has an offset."""
        location = self._locations.get(name)
        return self._arrays[name] if location is None else map_tensor(location)


class _Archive(NamedTuple):
    """The entries of a file that torch wrote.

    Attributes:
        nbytes: of all entries, uncompressed; of a file of before torch 1.6, its size.
        sizes: offset of the bytes of an uncompressed entry in the file -> their number.
    """

    nbytes: int
    sizes: Mapping[int, int]


def _read_archive(path: Path) -> _Archive:
    """Read the directory of the file."""
    try:
        if not path.is_file():
            raise TensorFileError(f"{path}: no such file")
        file_size = path.stat().st_size
        if not zipfile.is_zipfile(path):
            return _Archive(file_size, {})
        with zipfile.ZipFile(path) as archive, path.open("rb") as file:
            entries = archive.infolist()
            for entry in entries:
                if entry.filename.rpartition("/")[2] == "byteorder":
                    order = archive.read(entry)[:16] if entry.file_size < 16 else b""
                    if order != b"little":
                        raise TensorFileError(
                            f"{path}: byte order {order.decode('ascii', 'replace')!r}; only "
                            "little-endian files are read: load and save it with torch"
                        )
            sizes = {}
            for entry in entries:
                if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                    continue
                file.seek(entry.header_offset)
                header = file.read(_LOCAL_HEADER)
                names = [int.from_bytes(header[i : i + 2], "little") for i in (26, 28)]
                start = entry.header_offset + _LOCAL_HEADER + sum(names)
                if start + entry.file_size <= file_size:
                    sizes[start] = entry.file_size
            nbytes = sum(entry.file_size for entry in entries)
    except TensorFileError:
        raise
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile raises BadZipFile, struct.error, RuntimeError and others
        raise TensorFileError(f"{path}: not a PyTorch file, or truncated") from error
    if nbytes > max(MAX_COMPRESSION * file_size, MIN_ALLOWED_BYTES):
        raise TensorFileError(
            f"{path}: {nbytes} bytes compressed to {file_size}: more than weights can be; refused"
        )
    return _Archive(nbytes, sizes)


def _tensor_info(path: Path, name: str, tensor: Any) -> TensorInfo:
    """Dtype and shape of a tensor that has plain memory."""
    import torch

    problem = None
    if tensor.layout != torch.strided or tensor.is_quantized:
        problem = "a sparse or quantized tensor; only plain tensors are read"
    elif tensor.is_complex():
        problem = "a complex tensor"
    try:
        dtype = _numpy_dtype(tensor)
    except TypeError:
        problem = f"dtype {tensor.dtype} is not supported"
    if problem:
        raise TensorFileError(f"{path}: tensor {name}: {problem}")
    return TensorInfo(dtype, tuple(tensor.shape))


def _offset_in_file(path: Path, name: str, tensor: Any, archive: _Archive) -> int | None:
    """The offset of a tensor's bytes in the file; None if it cannot be mapped.

    Raises:
        TensorFileError: the tensor is larger than its storage.
    """
    storage = tensor.untyped_storage()
    start = getattr(storage, "_checkpoint_offset", None)
    if start is None or start not in archive.sizes:  # before torch 1.6; compressed
        return None
    # The last byte that the tensor reaches, by its strides.
    reach = sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True))
    end = (tensor.storage_offset() + reach + 1) * tensor.element_size()
    if math.prod(tensor.shape) and (
        end > archive.sizes[start] or min(tensor.stride(), default=0) < 0
    ):
        raise TensorFileError(
            f"{path}: tensor {name} needs {end} bytes of its storage, which has "
            f"{archive.sizes[start]}; the file is damaged"
        )
    if not tensor.is_contiguous() or tensor.is_neg():
        return None
    return start + tensor.storage_offset() * tensor.element_size()


def _load_without_data(path: Path) -> Mapping[str, Any]:
    """Load names and tensors that have no memory."""
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError as error:
        raise TensorFileError(
            f"{path}: torch is needed to read this file: pip install 'glamm-jax[convert]'"
        ) from error
    with FakeTensorMode():
        return _load(path)


def _load(path: Path) -> Mapping[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():  # about old pickle protocols
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TensorFileError(
            f"{path}: refused: it contains more than a dictionary of tensors, and loading it would "
            "execute code. Get the checkpoint as safetensors, or from a trusted source"
        ) from error
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch raises RuntimeError, ValueError and others
        raise TensorFileError(f"{path}: not a PyTorch file, or truncated") from error
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping):
        raise TensorFileError(
            f"{path}: contains a {type(value).__name__} instead of a dictionary of tensors"
        )
    others = [
        name
        for name, item in value.items()
        if not isinstance(item, torch.Tensor) or not isinstance(name, str)
    ]
    if others:
        names = ", ".join(map(str, others[:10])) + (" ..." if len(others) > 10 else "")
        raise TensorFileError(f"{path}: not tensors: {names}")
    return value


def _numpy_dtype(tensor: Any) -> np.dtype:
    import ml_dtypes
    import torch

    if tensor.dtype == torch.bfloat16:
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(str(tensor.dtype).removeprefix("torch."))


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.detach().resolve_neg().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_numpy_dtype(tensor))
    return tensor.numpy()
