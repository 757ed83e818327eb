"""GLaMM's fine-tuning for region captions (paper, A.3; table 5) on refCOCOg: 2,500 steps.

python -m train --config configs/finetune_region_refcocog.py --out runs/regions
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import part
from glamm_jax.config.experiment import ExperimentConfig


def get_config(dataset: str = "refcocog_regions") -> ExperimentConfig:
    """Every picture asks about up to ten regions, none for masks."""
    like = finetune_gcg.get_config()
    pictures = like.data.batch_shape.images
    quotas = replace(
        like.data.batch_shape,
        region_images=pictures,
        regions=10 * pictures,
        grounding_images=0,
        masks=0,
    )
    return replace(
        like,
        data=replace(like.data, mixture=(part(dataset, "region"),), batch_shape=quotas),
        optim=replace(like.optim, total_steps=2500),
    )
