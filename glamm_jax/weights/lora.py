"""LoRA adapters of stored models: merging into kernels, and their names in peft's files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from glamm_jax.config import LoRAConfig
from glamm_jax.weights.module_names import ADAPTER_PREFIX
from glamm_jax.weights.safetensors import TensorInfo
from glamm_jax.weights.tensor_sources import LeafSource
from glamm_jax.weights.transfer import CARRIED, convert_dtype

# Key of source.json: tensors without LoRA that an adapter replaced, as modules_to_save of peft.
REPLACED_BY_ADAPTER = "replaced_by_adapter"
_INJECTED, _SAVED = ".default.weight", ".weight"


class MergedLeaves:
    """A model's leaves with every adapter merged into its kernel: W + (alpha / rank) A B.

    The sum is computed in float32, one layer at a time, and rounded once to the kernel's dtype.

    Source: merge_and_unload of peft. Differs: peft sums in the kernel's own dtype.

    Args:
        leaves: of the model with adapters.
        config: of the adapters; None: leave the adapters out instead of merging them.
    """

    def __init__(self, leaves: LeafSource, config: LoRAConfig | None):
        self._leaves, self._config = leaves, config
        self.infos: Mapping[str, TensorInfo] = {
            name: info
            for name, info in leaves.infos.items()
            if "lora" not in name.split(".") and not is_carried_adapter(name)
        }

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """Return a leaf, or one layer of it."""
        leaf = self._leaves.read(name, position)
        adapter = name.removesuffix("kernel") + "lora."
        if self._config is None or f"{adapter}a" not in self._leaves.infos:
            return leaf
        float32 = np.dtype(np.float32)
        a, b = (convert_dtype(self._leaves.read(adapter + m, position), float32) for m in "ab")
        if not b.any():  # a layer that is not adapted, whose negative zeros are kept
            return leaf
        kernel = convert_dtype(leaf, float32) + np.float32(self._config.scale) * (a @ b)
        return convert_dtype(kernel, leaf.dtype)


class UniformLeaves:
    """A model's leaves without the carried originals of adapters, so that an export has one rank.

    Args:
        leaves: of the model.
    """

    def __init__(self, leaves: LeafSource):
        self._leaves = leaves
        self.infos: Mapping[str, TensorInfo] = {
            name: info for name, info in leaves.infos.items() if not is_carried_adapter(name)
        }

    def read(self, name: str, position: int | None = None) -> np.ndarray:
        """Return a leaf, or one layer of it."""
        return self._leaves.read(name, position)


def is_carried_adapter(name: str) -> bool:
    """Return whether a name in a model folder is that of an adapter's tensor as it was stored."""
    return name.startswith(CARRIED) and ".lora_" in name


def injected_name(name: str) -> str:
    """Return a tensor's name in a training checkpoint from its name in a file of peft.

    peft saves tensors below a prefix, and adapters without their name "default".
    """
    # quirk 28: training continues with the bare model, so its checkpoints lack the prefix.
    name = name.removeprefix(ADAPTER_PREFIX)
    if ".lora_" not in name or not name.endswith(_SAVED):
        return name
    module, _, matrix = name.removesuffix(_SAVED).rpartition(".lora_")
    return f"{module}.lora_{matrix.partition('.')[0]}{_INJECTED}"


def adapter_name(name: str) -> str:
    """Return an adapter's name in a file of peft from its name in a training checkpoint."""
    if ".lora_" not in name:
        return ADAPTER_PREFIX + name
    return ADAPTER_PREFIX + name.removesuffix(_INJECTED) + _SAVED


def without_lora(source_info: dict[str, Any]) -> dict[str, Any]:
    """Return a model folder's source.json without the adapters' tensors and config.json."""
    tensors = {name: d for name, d in source_info["tensors"].items() if ".lora_" not in name}
    hf_configs = {name: c for name, c in source_info["described"].items() if name != "adapter"}
    others = {key: v for key, v in source_info.items() if key != REPLACED_BY_ADAPTER}
    return {**others, "tensors": tensors, "described": hf_configs}
