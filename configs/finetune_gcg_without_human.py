"""Table 3 with a dagger: GLaMM without the 1,000 pictures that people annotated."""

from __future__ import annotations

from configs import finetune_gcg
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The rest of GranD_f alone."""
    return finetune_gcg.get_config(human=False)
