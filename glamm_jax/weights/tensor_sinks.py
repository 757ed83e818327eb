"""Where tensors are written: the interface of a writer, and the writer that keeps arrays in memory.

`safetensors.TensorWriter` writes the files of a folder. `MemoryWriter` takes the same calls, so the
code that converts a checkpoint is the same with and without files.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import numpy as np

from glamm_jax.weights.safetensors import TensorInfo


@runtime_checkable
class TensorSink(Protocol):
    """Takes named tensors whose dtypes and shapes are announced first."""

    def open(self, infos: Mapping[str, TensorInfo]) -> AbstractContextManager[Any]:
        """Announce the tensors that are written within the context.

        Leaving the context without an error checks that each was written completely.
        """
        ...

    def write(self, name: str, array: np.ndarray, position: int | None = None) -> None:
        """Write a tensor, or the `position`-th entry of its leading axis. Thread-safe."""
        ...


class MemoryWriter:
    """Keeps tensors as arrays.

    Attributes:
        arrays: the tensors by name, in the announced order, C-contiguous.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._infos: Mapping[str, TensorInfo] = {}
        self._unwritten_bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def open(self, infos: Mapping[str, TensorInfo]) -> Iterator[MemoryWriter]:
        """Allocate the arrays and let the block fill them.

        Raises:
            ValueError: a tensor was not written completely.
        """
        self._infos = infos
        self._unwritten_bytes = {name: info.nbytes for name, info in infos.items()}
        self.arrays = {name: np.empty(info.shape, info.dtype) for name, info in infos.items()}
        yield self
        if incomplete := [name for name, count in self._unwritten_bytes.items() if count]:
            raise ValueError(f"not written completely: {', '.join(sorted(incomplete))}")

    def write(self, name: str, array: np.ndarray, position: int | None = None) -> None:
        """Copy a tensor, or the `position`-th entry of its leading axis. Thread-safe."""
        info = self._infos[name]
        (info if position is None else info.layer()).check(name, array)
        self.arrays[name][... if position is None else position] = array
        with self._lock:
            self._unwritten_bytes[name] -= array.nbytes
