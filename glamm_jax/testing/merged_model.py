"""A model whose LoRA adapters are merged into its kernels, built in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from flax import nnx

from glamm_jax.config import LoRAConfig
from glamm_jax.weights.flat_state import fill_state, flatten_state
from glamm_jax.weights.lora import MergedLeaves
from glamm_jax.weights.tensor_sinks import MemoryWriter
from glamm_jax.weights.tensor_sources import MemorySource
from glamm_jax.weights.transfer import copy_leaves

Module = TypeVar("Module", bound=nnx.Module)


def merge_lora(model: nnx.Module, config: LoRAConfig, make: Callable[[], Module]) -> Module:
    """Return a module without adapters that computes what `model` computes with them.

    This is what `convert merge` does with a model folder.

    Args:
        model: a module with adapters.
        config: the configuration of its adapters.
        make: builds the same module without adapters; it is only traced.
    """
    leaves = MemorySource(
        {path: np.asarray(array) for path, array in flatten_state(nnx.state(model)).items()}
    )
    writer = MemoryWriter()
    copy_leaves(MergedLeaves(leaves, config), writer)
    graph, state = nnx.split(nnx.eval_shape(make))
    return nnx.merge(graph, fill_state(state, writer.arrays))
