"""The learning-rate schedule."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from glamm_jax.config.experiment import OptimConfig


def learning_rate(config: OptimConfig) -> optax.Schedule:
    """Return the learning rate as a function of the step, counted from 0.

    It rises linearly during `warmup_steps`, then falls linearly to 0 at `total_steps`, or stays.
    """
    warmup, total = config.warmup_steps, config.total_steps

    def rate(step: Any) -> Array:
        # quirk 29: step 0 has the rate of the first step of the warm-up, not 0.
        share = jnp.minimum(1.0, (step + 1) / max(warmup, 1))
        if config.schedule == "linear_decay":
            share = jnp.minimum(share, (total - step) / max(total - warmup, 1))
        return config.peak_lr * jnp.maximum(share, 0.0)

    return rate
