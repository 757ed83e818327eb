"""torch's own files, .bin and .pth, read without running what is in them.

Only `torch.load(weights_only=True)` ever sees the pickle, and only to learn names, shapes and
where in the file each tensor lies; the bytes are then mapped from there.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.weights.safetensors import TensorFileError, TensorInfo, TensorLocation, map_tensor

# Checkpoints of whole trainings wrap the weights once.
_WRAPPERS = ("module", "state_dict", "model")


class PickledSource:
    """The tensors of a .bin or .pth file.

    Raises: TensorFileError when torch is missing, or the file is damaged, holds more than tensors
        or wants to run code.
    """

    def __init__(self, path: Path):
        self._path = path
        self._places: dict[str, TensorLocation] = {}
        self._arrays: dict[str, np.ndarray] = {}
        self.infos: dict[str, TensorInfo] = {}
        for name, tensor in _state_dict(path).items():
            self._add(name, tensor)

    def read(self, name: str) -> np.ndarray:
        """One tensor, a read-only map of its file where that has places."""
        place = self._places.get(name)
        return self._arrays[name] if place is None else map_tensor(place)

    def _add(self, name: str, tensor: Any) -> None:
        info = TensorInfo(_numpy_dtype(tensor), tuple(tensor.shape))
        self.infos[name] = info
        start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
        if start is None or not tensor.is_contiguous():
            self._arrays[name] = _to_numpy(_loaded(self._path)[name])
        else:
            offset = start + tensor.storage_offset() * info.dtype.itemsize
            self._places[name] = TensorLocation(self._path, offset, info)


def _state_dict(path: Path) -> Mapping[str, Any]:
    """Names and tensors without bytes."""
    try:
        from torch._subclasses.fake_tensor import FakeTensorMode
    except ImportError as error:
        raise TensorFileError(
            f"{path}: reading torch's files needs torch: pip install 'glamm-jax[convert]'"
        ) from error
    with FakeTensorMode():
        return _load(path)


_whole: dict[Path, Mapping[str, Any]] = {}


def _loaded(path: Path) -> Mapping[str, Any]:
    """A file of the format before 2020, which has no table of places: all of it."""
    if path not in _whole:
        _whole.clear()
        _whole[path] = _load(path)
    return _whole[path]


def _load(path: Path) -> Mapping[str, Any]:
    import torch

    try:
        with warnings.catch_warnings():  # of old protocols, which are refused or read all the same
            warnings.simplefilter("ignore")
            value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise TensorFileError(
            f"{path}: refused: it is no plain dictionary of tensors; unpickling it would run code "
            "of its own. Get the checkpoint as safetensors, or from somebody you trust"
        ) from error
    except OSError as error:
        raise TensorFileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch's readers raise RuntimeError, ValueError and others
        raise TensorFileError(f"{path}: no file of torch, or a truncated one") from error
    for wrapper in _WRAPPERS:
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
    if not isinstance(value, Mapping):
        raise TensorFileError(f"{path}: holds a {type(value).__name__}, not tensors by name")
    others = [name for name, x in value.items() if not isinstance(x, torch.Tensor)]
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
