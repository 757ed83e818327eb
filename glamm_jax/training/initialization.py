"""Initial weights of a run: random, or read from a model folder or another run.

model = initial_model(config)                  on the current mesh
config, model = load_trained_model(run)        with what the run has trained
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from glamm_jax.config import GLaMMConfig
from glamm_jax.config.experiment import ExperimentConfig
from glamm_jax.config.flat import changed_fields, flatten_config
from glamm_jax.errors import ConfigError
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.glamm import GLaMM
from glamm_jax.parallel import current_mesh, is_sharded, shardings
from glamm_jax.storage import AnyPath, to_path
from glamm_jax.training.checkpoint import load_trained_leaves
from glamm_jax.training.fingerprint import frozen_fingerprint
from glamm_jax.training.run_folder import RunError, read_run_config
from glamm_jax.weights.flat_state import flatten_state
from glamm_jax.weights.folder import ModelFolder

# Fields of the model's configuration that need not be those of the weights: adapters may be added,
# and dtypes and activation checkpointing do not change the parameters.
_FREE_PREFIXES, _FREE_SUFFIXES = ("lora",), ("dtype", "remat")
_REGION_ENCODER = "region_encoder."


def initial_model(config: ExperimentConfig) -> GLaMM:
    """Return the model before the first step, on the current mesh, as `config.init` says.

    Raises:
        ConfigError: the model of a folder does not fit the configuration.
        FolderError: a folder is not a model folder.
        TensorFileError: a file of it cannot be read.
        RunError: a run cannot be read.
    """
    init = config.init
    if init.model:
        folder, stored = _open_model(init.model)
        state = folder.fill(abstract_model(stored)[1])
        model = _with_adapters(config, stored, state, init.model)
    elif init.run:
        run, trained = load_trained_model(to_path(init.run))
        model = _with_adapters(config, run.model, nnx.state(trained), init.run)
    else:
        model = random_model(config.model, config.seed)
    if init.region_encoder:
        folder, _ = _open_model(init.region_encoder)
        leaves = [x for x in flatten_state(nnx.state(model)) if x.startswith(_REGION_ENCODER)]
        missing = [leaf for leaf in leaves if leaf not in folder.leaves]
        if missing:
            raise ConfigError(f"{folder.path}: lacks {', '.join(missing)}")
        _set_leaves(model, {leaf: folder.read(leaf) for leaf in leaves})
    return model


def load_trained_model(run: AnyPath, step: int | None = None) -> tuple[ExperimentConfig, GLaMM]:
    """Load the configuration and the model of a run.

    Args:
        run: folder of the run.
        step: of the checkpoint; None: the latest.

    Raises:
        ConfigError: the folder is no run, or its initial model does not fit.
        RunError: there is no such checkpoint, or the initial weights have changed since.
    """
    config = read_run_config(run)
    leaves, base_fingerprint = load_trained_leaves(run, step)
    model = initial_model(config)
    if frozen_fingerprint(model, config.optim.trainable) != base_fingerprint:
        raise RunError(f"{run}: {config.init} does not give the weights that the run started from")
    _set_leaves(model, leaves)
    return config, model


def random_model(config: GLaMMConfig, seed: int) -> GLaMM:
    """Return a model with random weights, which follow from the seed and the kind of device.

    On one device every leaf is sampled by itself: leaves of a shape share a program, which together
    compile in half the time of one for the model. On several, one program samples every device's
    part of all leaves, so that no device holds a whole one. Both give the same weights.
    """
    if not is_sharded():
        return GLaMM(config, rngs=nnx.Rngs(_root_key(seed)))
    return nnx.merge(abstract_model(config)[0], _random_state(config, seed, ...))


def _root_key(seed: int) -> Array:
    # Of the device's own generator: that of jax takes several times as long to compile.
    return jax.random.key(seed, impl="rbg")


def _random_state(config: GLaMMConfig, seed: int, which: Any) -> nnx.State:
    """Sample the variables that an nnx filter selects; no others are allocated."""
    initialize = _compiled_initializer(config, which, current_mesh())
    return initialize(_root_key(seed))


@cache
def _compiled_initializer(
    config: GLaMMConfig, which: Any, mesh: jax.sharding.Mesh | None
) -> Callable[[Array], nnx.State]:
    """Return the program that samples variables; `mesh` is the current one."""
    choose = lambda model: nnx.state(model, which)  # noqa: E731
    where = shardings(nnx.filter_state(abstract_model(config)[1], which)) if mesh else None
    return jax.jit(lambda key: choose(GLaMM(config, rngs=nnx.Rngs(key))), out_shardings=where)


def _is_adapter(path: tuple, variable: Any) -> bool:
    return "lora" in path


def _open_model(path: str) -> tuple[ModelFolder, GLaMMConfig]:
    folder = ModelFolder(path)
    if not isinstance(folder.config, GLaMMConfig):
        raise ConfigError(f"{path}: contains no GLaMM model")
    return folder, folder.config


def _with_adapters(
    config: ExperimentConfig, stored: GLaMMConfig, state: nnx.State, where: str
) -> GLaMM:
    """Return a model with the stored values; LoRA adapters that they lack are random.

    Args:
        config: of the run.
        stored: configuration of the stored model.
        state: of the stored model.
        where: it is stored, for the error messages.

    Raises:
        ConfigError: the stored model is not that of the run, or has other adapters.
    """
    model = config.model
    old, new = (flatten_config(asdict(x)) for x in (stored, model))
    changes = [
        f"model.{name} = {now}, there {was}"
        for name, was, now in changed_fields(old, new, _FREE_PREFIXES)
        if name in new and not name.endswith(_FREE_SUFFIXES)
    ]
    if changes:
        raise ConfigError(f"{where}: another model: {'; '.join(changes)}")
    if stored.lora == model.lora:
        return nnx.merge(abstract_model(model)[0], state)
    if stored.lora is not None:
        raise ConfigError(
            f"{where}: has adapters ({stored.lora}), but model.lora = {model.lora}; merge them "
            "first: python -m convert merge"
        )
    adapters = _random_state(model, config.seed, _is_adapter)
    return nnx.merge(abstract_model(model)[0], nnx.merge_state(state, adapters))


def _set_leaves(model: GLaMM, leaves: Mapping[str, np.ndarray]) -> None:
    """Replace values of a model, by leaf path; they keep their shardings.

    Raises:
        ConfigError: a value has another shape than the model's.
    """
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        leaf, old = ".".join(map(str, path)), variable.get_value()
        if leaf in leaves:
            if leaves[leaf].shape != old.shape:
                raise ConfigError(f"{leaf}: {leaves[leaf].shape}, the model has {old.shape}")
            variable.set_value(jax.device_put(leaves[leaf], old.sharding))
