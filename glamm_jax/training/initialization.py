"""What a run begins with: weights drawn from the seed, or read from folders, and their fingerprint.

model = first_model(config)               on the current mesh
base_of(model, config.optim.trainable)      names the weights that a checkpoint does not hold
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, UInt32

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import ExperimentConfig, TrainableSet
from glamm_jax.config.flat import flatten_config
from glamm_jax.errors import ConfigError
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import current_mesh, shardings
from glamm_jax.training.checkpoint import load_trained_leaves
from glamm_jax.training.optimizer import trainable_filter
from glamm_jax.training.run_folder import RunError, read_run_config
from glamm_jax.weights.flat_state import flatten_state
from glamm_jax.weights.folder import ModelFolder

# A model may be trained in another dtype than it was written in, and with new adapters, and keep
# more or less for the backward pass.
_FREE_STARTS, _FREE_ENDS = ("lora",), ("dtype", "remat")
ODD = (0x9E3779B1, 0x85EBCA77)  # multipliers that mix all bits
_REGION_ENCODER = "region_encoder."


def initial_model(config: ExperimentConfig) -> GLaMM:
    """The model before the first step, on the current mesh, as `config.init` says.

    Raises: ConfigError when a folder's model is another one; FolderError, TensorFileError or
    RunError when a folder cannot be read.
    """
    init = config.init
    if init.model:
        folder, held = _open(init.model)
        state = folder.fill(abstract_model(held)[1])
        model = _completed(config, held, state, init.model)
    elif init.run:
        run, trained = load_trained_model(Path(init.run))
        model = _completed(config, run.model, nnx.state(trained), init.run)
    else:
        model = random_model(config.model, config.seed)
    if init.region_encoder:
        _take(model, _open(init.region_encoder)[0], _REGION_ENCODER)
    return model


def load_trained_model(run: Path, step: int | None = None) -> tuple[ExperimentConfig, GLaMM]:
    """A run's configuration and its model, from its latest checkpoint or that of a step.

    Raises: ConfigError or RunError when the run, or what it began with, is not there any more.
    """
    config = read_run_config(run)
    leaves, base = load_trained_leaves(run, step)
    model = initial_model(config)
    if frozen_fingerprint(model, config.optim.trainable) != base:
        raise RunError(f"{run}: {config.init} is not what the run has begun with")
    _update(model, leaves)
    return config, model


def random_model(config: GLaMMConfig, seed: int) -> GLaMM:
    """The whole model with first weights that follow from the seed, and from the kind of device.

    One program draws all of them, with the device's own generator: leaf by leaf, or with jax's,
    compiling takes several times as long.
    """
    return nnx.merge(abstract_model(config)[0], _drawn(config, seed, ...))


def frozen_fingerprint(model: GLaMM, trained: TrainableSet) -> str:
    """The fingerprint of what a run on this model does not train, and so does not save."""
    _, _, frozen = nnx.split(model, trainable_filter(trained), ...)
    return fingerprint(frozen)


def fingerprint(state: nnx.State) -> str:
    """A hash of every leaf's name, dtype, shape and content, computed where the leaves lie.

    It does not depend on the mesh or on the number of processes: integers are summed modulo 2**32.
    """
    leaves = flatten_state(state)
    sums = jax.tree.map(np.asarray, _sums(leaves))
    told = hashlib.sha256()
    for name, value in sorted(leaves.items()):
        told.update(f"{name} {value.dtype} {value.shape} {sums[name].tolist()}\n".encode())
    return told.hexdigest()


def _drawn(config: GLaMMConfig, seed: int, which: Any) -> nnx.State:
    """First values of the variables that a filter chooses; no others are formed."""
    return _drawing(config, which, current_mesh())(jax.random.key(seed, impl="rbg"))


@cache
def _drawing(
    config: GLaMMConfig, which: Any, mesh: jax.sharding.Mesh | None
) -> Callable[[Array], nnx.State]:
    """The program that draws; `mesh` is the current one."""
    choose = lambda model: nnx.state(model, which)  # noqa: E731
    where = shardings(nnx.filter_state(abstract_model(config)[1], which)) if mesh else None
    return jax.jit(lambda key: choose(GLaMM(config, rngs=nnx.Rngs(key))), out_shardings=where)


def _is_adapter(path: tuple, variable: Any) -> bool:
    return "lora" in path


def _open(path: str) -> tuple[ModelFolder, GLaMMConfig]:
    folder = ModelFolder(path)
    if not isinstance(folder.config, GLaMMConfig):
        raise ConfigError(f"{path}: holds no GLaMM model")
    return folder, folder.config


def _completed(config: ExperimentConfig, held: GLaMMConfig, state: nnx.State, where: str) -> GLaMM:
    """A model of these values; adapters that they lack are drawn."""
    wanted = config.model
    _check_same(wanted, held, where)
    if held.lora == wanted.lora:
        return nnx.merge(abstract_model(wanted)[0], state)
    if held.lora is not None:
        raise ConfigError(
            f"{where}: has adapters ({held.lora}), and model.lora = {wanted.lora}; merge them "
            "first: python -m convert merge"
        )
    adapters = _drawn(wanted, config.seed, _is_adapter)
    return nnx.merge(abstract_model(wanted)[0], nnx.merge_state(state, adapters))


def _take(model: GLaMM, folder: ModelFolder, start: str) -> None:
    """Replace the leaves whose paths begin so by those of another folder's model."""
    names = [name for name in flatten_state(nnx.state(model)) if name.startswith(start)]
    held = folder.leaves
    wrong = [name for name in names if name not in held]
    if wrong:
        raise ConfigError(f"{folder.path}: lacks {', '.join(wrong)}")
    _update(model, {name: folder.read(name) for name in names})


def _update(model: GLaMM, leaves: Mapping[str, np.ndarray]) -> None:
    """Replace leaves by their paths; they stay where they lie.

    Raises: ConfigError when one has another shape.
    """
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        name, old = ".".join(map(str, path)), variable.get_value()
        if name in leaves:
            if leaves[name].shape != old.shape:
                raise ConfigError(f"{name}: {leaves[name].shape}, the model has {old.shape}")
            variable.set_value(jax.device_put(leaves[name], old.sharding))


def _check_same(wanted: GLaMMConfig, held: GLaMMConfig, where: str) -> None:
    """Raises: ConfigError listing the fields in which a folder's model is another one."""
    ours, theirs = _fields(wanted), _fields(held)
    other = [f"model.{name} = {ours[name]}, there {theirs.get(name)}" for name in ours]
    differing = [text for name, text in zip(ours, other, strict=True) if ours[name] != theirs[name]]
    if differing:
        raise ConfigError(f"{where}: another model: {'; '.join(differing)}")


def _fields(config: GLaMMConfig) -> dict[str, Any]:
    """{dotted name: value} of what the weights follow from."""
    fields = flatten_config(asdict(config))
    return {
        name: value
        for name, value in fields.items()
        if not name.startswith(_FREE_STARTS) and not name.endswith(_FREE_ENDS)
    }


@jax.jit
def _sums(leaves: dict[str, Array]) -> dict[str, UInt32[Array, "2"]]:
    """Two sums of every leaf's bits, in which each place counts differently."""
    return jax.tree.map(_sum, leaves)


def _sum(value: Array) -> UInt32[Array, "2"]:
    bits = jax.lax.bitcast_convert_type(value, f"uint{8 * value.dtype.itemsize}")
    bits, place = bits.astype(jnp.uint32), jnp.zeros((1,) * value.ndim, jnp.uint32)
    for axis, length in enumerate(value.shape):
        here = jax.lax.broadcasted_iota(jnp.uint32, value.shape, axis)
        place = place * np.uint32(length) + here
    return jnp.stack([_mixed(bits, place, odd).sum(dtype=jnp.uint32) for odd in ODD])


def _mixed(bits: Array, place: Array, odd: int) -> Array:
    """A number from a value and its place that any change of either changes."""
    x = (bits ^ (place * np.uint32(odd))) * np.uint32(0xC2B2AE3D)
    return (x ^ (x >> 15)) * np.uint32(odd)
