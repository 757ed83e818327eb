"""Adapters on disk: folded into their kernels on the way out, or under peft's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from glamm_jax.config import LoRAConfig
from glamm_jax.weights.safetensors import TensorInfo
from glamm_jax.weights.tensor_sources import LeafSource
from glamm_jax.weights.transfer import convert_dtype

ADAPTER_PREFIX = "base_model.model."
_INJECTED, _SAVED = ".default.weight", ".weight"


class MergedLeaves:
    """A model's leaves with every adapter folded into its kernel: W + (alpha / rank) A B.

    The sum is formed in float32, a layer at a time, and rounded once to the kernel's dtype.
    Without a configuration the adapters are left out.

    Source: merge_and_unload of peft. Differs: peft sums in the kernel's own dtype.
    """

    def __init__(self, leaves: LeafSource, config: LoRAConfig | None):
        self._leaves, self._config = leaves, config
        self.infos: Mapping[str, TensorInfo] = {
            name: info for name, info in leaves.infos.items() if "lora" not in name.split(".")
        }

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """A leaf, or one layer of it."""
        leaf = self._leaves.read(name, position)
        adapter = name.removesuffix("kernel") + "lora."
        if self._config is None or f"{adapter}a" not in self._leaves.infos:
            return leaf
        a, b = (
            convert_dtype(self._leaves.read(adapter + side, position), np.dtype(np.float32))
            for side in "ab"
        )
        merged = convert_dtype(leaf, np.dtype(np.float32)) + np.float32(self._config.scale) * (
            a @ b
        )
        return convert_dtype(merged, leaf.dtype)


def injected_name(name: str) -> str:
    """A tensor's name in a checkpoint of training, from any of peft's (trap 28).

    peft saves adapters without their name ("default") and everything below a prefix.
    """
    name = name.removeprefix(ADAPTER_PREFIX)
    if ".lora_" in name and not name.endswith(_INJECTED):
        name = name.removesuffix(_SAVED) + _INJECTED
    return name


def adapter_name(name: str) -> str:
    """The other way: an injected adapter's name in a peft adapter's file."""
    return ADAPTER_PREFIX + name.removesuffix(_INJECTED) + _SAVED


def without_lora(record: dict[str, Any]) -> dict[str, Any]:
    """A source record after merging: the adapters' tensors and their config.json are gone."""
    tensors = {name: d for name, d in record["tensors"].items() if ".lora_" not in name}
    described = {family: d for family, d in record["described"].items() if family != "adapter"}
    return {**record, "tensors": tensors, "described": described}
