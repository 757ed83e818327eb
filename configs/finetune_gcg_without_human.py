"""Table 3, row with a dagger: GLaMM without the 1,000 human-annotated images of GranD_f."""

from __future__ import annotations

from configs import finetune_gcg
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The automatically annotated parts of GranD_f."""
    return finetune_gcg.get_config(human_annotated=False)
