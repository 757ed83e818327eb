"""Fingerprints of weights: they identify the parameters that a checkpoint does not contain."""

from __future__ import annotations

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt32

from glamm_jax.config.experiment import TrainableSet
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.weights.flat_state import flatten_state

_MULTIPLIERS = (0x9E3779B1, 0x85EBCA77)  # odd, so that multiplying mixes all bits


def frozen_fingerprint(model: GLaMM, trainable: TrainableSet) -> str:
    """Return the fingerprint of what a run does not train, and so does not save."""
    _, _, frozen = nnx.split(model, trainable_filter(trainable), ...)
    return fingerprint(frozen)


def fingerprint(state: nnx.State) -> str:
    """Hash the name, dtype, shape and content of every leaf, on the devices that have it.

    The result does not depend on the mesh or the number of processes: the sums over the content are
    integers modulo 2**32.
    """
    leaves = flatten_state(state)
    sums = jax.tree.map(np.asarray, _sums(leaves))
    digest = hashlib.sha256()
    for name, value in sorted(leaves.items()):
        digest.update(f"{name} {value.dtype} {value.shape} {sums[name].tolist()}\n".encode())
    return digest.hexdigest()


@jax.jit
def _sums(leaves: dict[str, Array]) -> dict[str, UInt32[Array, "2"]]:
    """Compute two sums over the bits of every leaf that depend on the position of each value."""
    return jax.tree.map(_sum, leaves)


def _sum(value: Array) -> UInt32[Array, "2"]:
    bits = jax.lax.bitcast_convert_type(value, f"uint{8 * value.dtype.itemsize}")
    bits, position = bits.astype(jnp.uint32), jnp.zeros((1,) * value.ndim, jnp.uint32)
    for axis, length in enumerate(value.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, value.shape, axis)
        position = position * np.uint32(length) + index
    return jnp.stack([_mix(bits, position, m).sum(dtype=jnp.uint32) for m in _MULTIPLIERS])


def _mix(bits: Array, position: Array, multiplier: int) -> Array:
    """Mix a value and its position into a number that changes with either."""
    x = (bits ^ (position * np.uint32(multiplier))) * np.uint32(0xC2B2AE3D)
    return (x ^ (x >> 15)) * np.uint32(multiplier)
