"""Initial values of layers that no checkpoint has, for training a GLaMM that is made of parts."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np

from glamm_jax.weights.rules import Shapes
from glamm_jax.weights.safetensors import TensorInfo


class InitialSource:
    """Initial weights in torch's layout: scales 1, biases 0, kernels normal with 1/sqrt(fan-in).

    A tensor depends on the seed and its name only.
    """

    def __init__(self, tensors: Shapes, seed: int):
        self._seed = seed
        self.infos: Mapping[str, TensorInfo] = {
            name: TensorInfo(np.dtype(np.float32), shape) for name, shape in tensors.items()
        }

    def read(self, name: str) -> np.ndarray:
        """Generate a tensor; every call returns the same values."""
        shape = self.infos[name].shape
        if len(shape) == 1:
            return np.full(shape, float(name.endswith("weight")), np.float32)
        rng = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        scale = np.float32(math.prod(shape[1:]) ** -0.5)
        return rng.standard_normal(shape, np.float32) * scale
