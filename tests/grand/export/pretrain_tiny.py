"""The mixture of configs/pretrain.py with a tiny model and two steps, for `python -m train`."""

from __future__ import annotations

from dataclasses import replace

from configs import pretrain
from glamm_jax.config.experiment import ExperimentConfig
from tests import small_experiment


def get_config() -> ExperimentConfig:
    """Return the tiny configuration with the datasets and tasks of pretraining."""
    base = small_experiment.get_config()
    shape = replace(base.data.batch_shape, rows=4, images=4, region_images=2, regions=6)
    mixture = pretrain.get_config().data.mixture
    data = replace(base.data, mixture=mixture, batch_shape=shape)
    return replace(base, data=data, optim=replace(base.optim, total_steps=2))
