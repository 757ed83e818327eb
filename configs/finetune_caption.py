"""GLaMM's fine-tuning for descriptions of pictures (paper, A.3; table 6) on LLaVA-Instruct-150K.

The paper gives no number of steps; these are those of the other tasks.

  python -m train --config configs/finetune_caption.py --out runs/caption
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import BARE, part
from glamm_jax.config.experiment import ExperimentConfig


def get_config(dataset: str = "llava_instruct_150k") -> ExperimentConfig:
    """Conversations about whole pictures; neither SAM nor the region encoder runs."""
    like = finetune_gcg.get_config()
    quotas = replace(like.data.batch_shape, grounding_images=0, masks=0)
    mixture = (part(dataset, "vqa", asking=BARE),)
    return replace(like, data=replace(like.data, mixture=mixture, batch_shape=quotas))
