"""Tensors of layers that no checkpoint has: the start of a training from parts."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

from glamm_jax.weights.rules import Shapes
from glamm_jax.weights.safetensors import TensorInfo


class InitialSource:
    """Fresh weights, in torch's layout: gains 1, biases 0, kernels normal with 1/sqrt(fan-in).

    Each depends on the seed and its name alone.
    """

    def __init__(self, tensors: Shapes, seed: int):
        self._seed = seed
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(np.dtype(np.float32), shape) for name, shape in tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """The tensor, drawn anew at every call."""
        shape = self.infos[name].shape
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("weight")), np.float32)
        draw = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        scale = np.float32(math.prod(shape[1:]) ** -0.5)
        return draw.standard_normal(shape, np.float32) * scale
