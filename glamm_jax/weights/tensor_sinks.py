"""Destinations of tensors: the interface of a writer, and a writer that keeps arrays in memory.

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
    """Destination of named tensors whose dtypes and shapes are declared first."""

    def open(self, infos: Mapping[str, TensorInfo]) -> AbstractContextManager[Any]:
        """Declare the tensors that are written within the context.

        Leaving the context without an error checks that every tensor was written completely.
        """
        ...

    def write(self, name: str, array: np.ndarray, position: int | None = None) -> None:
        """Write a tensor, or the `position`-th entry of its leading axis. Thread-safe."""
        ...


class MemoryWriter:
    """Writer that keeps tensors in memory.

    Attributes:
        arrays: the tensors by name, in the declared order, C-contiguous.
    """

    def __init__(self) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        self._infos: Mapping[str, TensorInfo] = {}
        self._unwritten_bytes: dict[str, int] = {}
        self._lock = threading.Lock()

    @contextmanager
    def open(self, infos: Mapping[str, TensorInfo]) -> Iterator[MemoryWriter]:
        """Allocate the arrays; within the context, `write` fills them.

        Raises:
            ValueError: on leaving the context, a tensor is not written completely.
        """
        self._infos = infos
        self._unwritten_bytes = {name: info.nbytes for name, info in infos.items()}
        self.arrays = {name: np.empty(info.shape, info.dtype) for name, info in infos.items()}
        yield self
        if incomplete := [name for name, left in self._unwritten_bytes.items() if left]:
            raise ValueError(f"not written completely: {', '.join(sorted(incomplete))}")

    def write(self, name: str, array: np.ndarray, position: int | None = None) -> None:
        """Copy a tensor, or the `position`-th entry of its leading axis. Thread-safe."""
        info = self._infos[name]
        (info if position is None else info.layer()).check(name, array)
        self.arrays[name][... if position is None else position] = array
        with self._lock:
            self._unwritten_bytes[name] -= array.nbytes
