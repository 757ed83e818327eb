"""Pretraining on GranD (paper, A.2.1): four tasks at once, 35,000 steps of 160.

It starts from Vicuna, CLIP, SAM and GPT4RoI's region encoder, assembled by

  glamm-jax convert from-torch vicuna-7b --clip CLIP --sam sam.pth --region GPT4RoI --out start
  glamm-jax train --config configs/pretrain.py --out runs/pretrain

The paper gives no shares; these are the released training's between segmentation (here referring
expressions and grounded captions), regions and captions.
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import entry
from glamm_jax.config.experiment import ExperimentConfig

SEGMENTATION, REGIONS, CAPTIONS = 0.45, 0.40, 0.15


def get_config() -> ExperimentConfig:
    """One dataset, an entry for each of four tasks."""
    base = finetune_gcg.get_config()
    shape = replace(
        base.data.batch_shape,
        region_images=2,  # two images in five are for regions
        regions=20,
        grounding_images=3,
        mask_height=1024,
        mask_width=1024,
    )
    mixture = (
        replace(entry("grand", "referring"), weight=SEGMENTATION / 2),
        replace(entry("grand", "gcg"), weight=SEGMENTATION / 2),
        replace(entry("grand", "region"), weight=REGIONS),
        replace(entry("grand", "caption"), weight=CAPTIONS),
    )
    return replace(
        base,
        data=replace(base.data, mixture=mixture, batch_shape=shape),
        optim=replace(base.optim, total_steps=35_000),
        checkpoint=replace(base.checkpoint, every=500),
    )
