"""A training small enough for every mesh, and what the tests of sharding share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glamm_jax.config.experiment import ExperimentConfig, MixtureEntry
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.optimizer import make_optimizer, trainable_filter
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from tests.small_experiment import get_config


def small_config(*, regions: bool = False) -> ExperimentConfig:
    """Eight rows and pictures in four shards; with boxes, four pictures that have some."""
    config = get_config()
    data = replace(config.data, batch_slices=4)
    if regions:
        quotas = replace(data.batch_shape, region_images=1, regions=4)
        boxes = MixtureEntry("miniworld/easy@32", ("region",))
        data = replace(data, batch_shape=quotas, mixture=(*data.mixture[:1], boxes))
    return replace(config, data=data)


def first_split(config: ExperimentConfig, model: GLaMM) -> ModelSplit:
    """A start whose state may be donated: the model keeps its arrays."""
    trained, optimizer = trainable_filter(config.optim.trainable), make_optimizer(config.optim)
    split = split_model(model, trained, optimizer, config.model.compute_dtype)
    return split._replace(state=jax.tree.map(jnp.copy, split.state))


def first_moments(state: TrainState) -> dict[str, np.ndarray]:
    """{leaf: moment}: after one step, a tenth of the clipped gradient."""
    parts: Any = next(each for each in state.opt_state if isinstance(each, dict))
    moments = (inner[0].mu for inner in parts.values())
    return {leaf: np.asarray(value) for each in moments for leaf, value in each.items()}


def gradient_errors(state: TrainState, reference: TrainState, floor: float) -> dict[str, float]:
    """{leaf: L2 norm of the difference over that of the gradient}.

    Args:
        floor: share of the whole gradient's norm below which a leaf's own is noise: the bias of
            keys has none, but for rounding.
    """
    found, wanted = first_moments(state), first_moments(reference)
    norm: Callable[..., Any] = np.linalg.norm
    least = floor * norm([norm(value) for value in wanted.values()])
    return {
        leaf: float(norm(found[leaf] - value) / max(norm(value), least))
        for leaf, value in wanted.items()
    }
