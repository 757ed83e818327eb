"""Tensors written to memory are complete, checked copies."""

from __future__ import annotations

import numpy as np
import pytest

from glamm_jax.weights.safetensors import TensorInfo
from glamm_jax.weights.tensor_sinks import MemoryWriter

FLOAT32 = np.dtype(np.float32)


def test_arrays_are_written_at_once_or_by_position():
    stack = np.arange(24, dtype=np.float32).reshape(3, 4, 2)
    writer = MemoryWriter()
    with writer.open(
        {"stack": TensorInfo(FLOAT32, stack.shape), "kernel": TensorInfo(FLOAT32, (2, 4))}
    ):
        writer.write("kernel", stack[0].T)
        for position in (2, 0, 1):
            writer.write("stack", stack[position], position)
    assert list(writer.arrays) == ["stack", "kernel"]
    assert (writer.arrays["stack"] == stack).all()
    assert writer.arrays["kernel"].flags.c_contiguous
    assert (writer.arrays["kernel"] == stack[0].T).all()


def test_an_array_that_is_not_complete_is_named():
    writer = MemoryWriter()

    def write_half() -> None:
        with writer.open({"a": TensorInfo(FLOAT32, (2, 2))}):
            writer.write("a", np.zeros(2, np.float32), 0)

    with pytest.raises(ValueError, match="not written completely: a"):
        write_half()


def test_another_shape_than_declared_is_refused():
    writer = MemoryWriter()
    with (
        pytest.raises(ValueError, match=r"expected float32 \(2, 2\)"),
        writer.open({"a": TensorInfo(FLOAT32, (2, 2))}),
    ):
        writer.write("a", np.zeros(2, np.float32))
