"""A training configuration that fits every mesh, and helpers of the tests of sharding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from glamm_jax.config.experiment import ExperimentConfig, MixtureEntry
from glamm_jax.models.glamm import GLaMM
from glamm_jax.training.optimizer import make_optimizer
from glamm_jax.training.parameter_groups import trainable_filter
from glamm_jax.training.state import ModelSplit, TrainState, split_model
from tests.small_experiment import get_config


def small_config(*, regions: bool = False) -> ExperimentConfig:
    """Return one of eight slices with an image each, or with two, one of which has regions."""
    config = get_config()
    shape = replace(config.data.batch_shape, rows=1, images=1, grounding_images=1, masks=4)
    data = replace(config.data, batch_slices=8, batch_shape=shape)
    if regions:
        shape = replace(config.data.batch_shape, region_images=1, regions=4)
        boxes = MixtureEntry("miniworld/easy@32", ("region",))
        data = replace(data, batch_shape=shape, mixture=(*data.mixture[:1], boxes))
    return replace(config, data=data)


def first_split(config: ExperimentConfig, model: GLaMM) -> ModelSplit:
    """Split a model so that the state may be donated: the model keeps its arrays."""
    is_trained, optimizer = trainable_filter(config.optim.trainable), make_optimizer(config.optim)
    split = split_model(model, is_trained, optimizer, config.model.compute_dtype)
    return split._replace(state=jax.tree.map(jnp.copy, split.state))


def first_moments(state: TrainState) -> dict[str, np.ndarray]:
    """Return {leaf: first moment}: after one step, a tenth of the clipped gradient."""
    parts: Any = next(x for x in state.opt_state if isinstance(x, dict))
    moments = (inner[0].mu for inner in parts.values())
    return {leaf: np.asarray(value) for part in moments for leaf, value in part.items()}


def gradient_errors(state: TrainState, reference: TrainState, floor: float) -> dict[str, float]:
    """Return {leaf: L2 norm of the difference, relative to that of the gradient}.

    Args:
        state: after one step.
        reference: the same, computed otherwise.
        floor: share of the global gradient norm below which the gradient of a leaf is noise: that
            of the bias of the keys is zero but for rounding.
    """
    moments, expected = first_moments(state), first_moments(reference)
    norm: Callable[..., Any] = np.linalg.norm
    least = floor * norm([norm(value) for value in expected.values()])
    return {
        leaf: float(norm(moments[leaf] - value) / max(norm(value), least))
        for leaf, value in expected.items()
    }
