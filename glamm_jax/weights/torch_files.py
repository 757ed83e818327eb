"""Reading torch's .bin and .pth files without executing code in them.

Only `torch.load(weights_only=True)` reads the pickle, and only for the name, shape and file offset
of every tensor; the tensors are then memory-mapped.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.weights.safetensors import TensorFileError, TensorInfo, TensorLocation, map_tensor

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
        complete: Mapping[str, Any] | None = None
        for name, tensor in _load_without_data(path).items():
            info = TensorInfo(_numpy_dtype(tensor), tuple(tensor.shape))
            self.infos[name] = info
            start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
            if start is not None and tensor.is_contiguous():
                offset = start + tensor.storage_offset() * info.dtype.itemsize
                self._locations[name] = TensorLocation(path, offset, info)
            else:  # files of before torch 1.6 have no offsets
                if complete is None:
                    complete = _load(path)
                self._arrays[name] = _to_numpy(complete[name])

    def read(self, name: str) -> np.ndarray:
        """Return a tensor, as a read-only map of the file if it has an offset."""
        location = self._locations.get(name)
        return self._arrays[name] if location is None else map_tensor(location)


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
    others = [name for name, item in value.items() if not isinstance(item, torch.Tensor)]
    if others:
        raise TensorFileError(f"{path}: not tensors: {', '.join(map(str, others))}")
    return value


def _numpy_dtype(tensor: Any) -> np.dtype:
    import ml_dtypes
    import torch

    if tensor.dtype == torch.bfloat16:
        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(str(tensor.dtype).removeprefix("torch."))


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    tensor = tensor.contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(_numpy_dtype(tensor))
    return tensor.numpy()
