"""GLaMM's fine-tuning for referring expressions (paper, A.3) on refCOCO, refCOCO+ and refCOCOg.

1,750 steps, 5 epochs of 350, are those of the released training; the paper gives none.

  python -m train --config configs/finetune_refseg.py --out runs/refseg
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import REFERRING, mixed, referring
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """One dataset drawn for each picture, up to three expressions."""
    like = finetune_gcg.get_config()
    return replace(
        like,
        data=replace(like.data, mixture=mixed(1.0, {referring(*REFERRING): 1.0})),
        optim=replace(like.optim, total_steps=1750),
    )
