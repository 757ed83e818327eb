"""Give one of our models the weights of a live PyTorch one, through its weight table."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from flax import nnx

from glamm_jax.weights.flat_state import fill_state, state_shapes
from glamm_jax.weights.rules import WeightTable
from glamm_jax.weights.tensor_sinks import MemoryWriter
from glamm_jax.weights.tensor_sources import MemorySource
from glamm_jax.weights.transfer import import_tensors

Model = TypeVar("Model", bound=nnx.Module)


def randomise(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights large enough that every part shows in the output: gains near 1, biases too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in module.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            fan_in = weight[0].numel() if weight.ndim > 1 else 100
            gain = 1.0 if weight.ndim == 1 and (weight == 1).all() else 0.0
            weight.copy_(gain + noise * fan_in**-0.5)
    return module.eval()


def copied(model: Model, theirs: torch.nn.Module, table: WeightTable, prefix: str = "") -> Model:
    """Our model with their weights; `prefix` stands before their names in the table."""
    tensors = {prefix + name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    graph, state = nnx.split(model)
    writer = MemoryWriter()
    import_tensors(table, MemorySource(tensors), state_shapes(state), writer)
    return nnx.merge(graph, fill_state(state, writer.arrays))


def assert_close(actual: object, expected: torch.Tensor, tolerance: float) -> None:
    """Largest difference over the standard deviation, as in the golden README."""
    theirs = expected.detach().numpy().astype(np.float64)
    error = np.abs(np.asarray(actual, np.float64) - theirs).max() / theirs.std()
    assert error < tolerance, f"{error:.2e} of std"
