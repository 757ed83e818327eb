"""Fine-tuning for region captions (paper, A.3; table 5) on refCOCOg: 2,500 steps.

glamm-jax train --config configs/finetune_region_refcocog.py --out runs/regions
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import entry
from glamm_jax.config.experiment import ExperimentConfig


def get_config(dataset: str = "refcocog_regions") -> ExperimentConfig:
    """Up to ten regions for each image, no masks."""
    base = finetune_gcg.get_config()
    images = base.data.batch_shape.images
    shape = replace(
        base.data.batch_shape,
        region_images=images,
        regions=10 * images,
        grounding_images=0,
        masks=0,
    )
    return replace(
        base,
        data=replace(base.data, mixture=(entry(dataset, "region"),), batch_shape=shape),
        optim=replace(base.optim, total_steps=2500),
    )
