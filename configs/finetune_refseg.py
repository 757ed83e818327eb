"""Fine-tuning for referring segmentation (paper, A.3) on refCOCO, refCOCO+ and refCOCOg.

1,750 steps (5 epochs of 350) are those of the released training; the paper gives none.

  glamm-jax train --config configs/finetune_refseg.py --out runs/refseg
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import REFERRING, mix, referring
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """Up to three expressions for each image."""
    base = finetune_gcg.get_config()
    return replace(
        base,
        data=replace(base.data, mixture=mix(1.0, {referring(*REFERRING): 1.0})),
        optim=replace(base.optim, total_steps=1750),
    )
