"""Small ONNX models for tests, and photographs with different colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from glamm_jax.grand.roles import RoleImage


def write_constant_model(
    path: Path, shape: Sequence[int | str], outputs: Mapping[str, np.ndarray]
) -> Path:
    """Write a model that returns the given arrays for each image of its input.

    Args:
        path: of the file.
        shape: of the input; a text is an axis of any length.
        outputs: of one image, by name; the model adds the axis of the batch.
    """
    nodes, constants, infos = [], [], []
    # Zeros of shape [batch], so that each output depends on the input.
    axes = numpy_helper.from_array(np.asarray([1, 2, 3]), "axes")
    constants.append(axes)
    constants.append(numpy_helper.from_array(np.float32(0.0).reshape(()), "zero"))
    nodes.append(helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=1))
    nodes.append(helper.make_node("Mul", ["mean", "zero"], ["nothing"]))
    for k, (name, array) in enumerate(outputs.items()):
        constants.append(numpy_helper.from_array(array[None].astype(np.float32), f"array{k}"))
        axis = np.asarray([-1, *[1] * array.ndim])
        constants.append(numpy_helper.from_array(axis, f"shape{k}"))
        nodes.append(helper.make_node("Reshape", ["nothing", f"shape{k}"], [f"zeros{k}"]))
        nodes.append(helper.make_node("Add", [f"array{k}", f"zeros{k}"], [name]))
        infos.append(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [shape[0], *array.shape])
        )
    _write(path, shape, nodes, infos, constants)
    return path


def write_colour_model(
    path: Path, shape: Sequence[int | str], columns: int, rows: int = 6, seed: int = 0
) -> Path:
    """Write a model of [batch, rows, columns] numbers in 0 to 1 that depend on the mean colour.

    Args:
        path: of the file.
        shape: of the input, NCHW.
        columns: of a row.
        rows: of an image.
        seed: of the weights.
    """
    random = np.random.default_rng(seed)
    weights = random.normal(size=(3, rows * columns)).astype(np.float32) * 0.02
    bias = random.normal(size=rows * columns).astype(np.float32)
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(bias, "bias"),
        numpy_helper.from_array(np.asarray([2, 3]), "axes"),
        numpy_helper.from_array(np.asarray([-1, rows, columns]), "shape"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["flat"]),
        helper.make_node("Sigmoid", ["flat"], ["shares"]),
        helper.make_node("Reshape", ["shares", "shape"], ["rows"]),
    ]
    info = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [shape[0], rows, columns])
    _write(path, shape, nodes, [info], constants)
    return path


def write_brightness_model(path: Path, shape: Sequence[int | str]) -> Path:
    """Write a model whose output [batch, 1, height, width] is the brightness, from 0 to 1."""
    constants = [
        numpy_helper.from_array(np.asarray([1]), "axes"),
        numpy_helper.from_array(np.float32(1 / 255).reshape(()), "scale"),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["image", "axes"], ["mean"], keepdims=1),
        helper.make_node("Mul", ["mean", "scale"], ["mask"]),
    ]
    info = helper.make_tensor_value_info("mask", TensorProto.FLOAT, [shape[0], 1, *shape[2:]])
    _write(path, shape, nodes, [info], constants)
    return path


def _write(
    path: Path,
    shape: Sequence[int | str],
    nodes: list[Any],
    outputs: list[Any],
    constants: list[Any],
) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, list(shape))
    graph = helper.make_graph(nodes, "model", [image], outputs, constants)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="tests"
    )
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def photographs(count: int = 5) -> list[RoleImage]:
    """Return images of different sizes and colours with a bright part each."""
    images = []
    for i in range(count):
        random = np.random.default_rng(i)
        height, width = 40 + 9 * i, 70 - 5 * i
        pixels = np.empty((height, width, 3), np.uint8)
        pixels[:] = random.integers(0, 100, 3)
        pixels[5 : 12 + i, 8 : 20 + i] = 255
        images.append(RoleImage(f"{i}.png", pixels, seed=i))
    return images
