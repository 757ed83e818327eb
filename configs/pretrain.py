"""GLaMM's pretraining on GranD (paper, A.2.1): four tasks at once, batch 160, 35,000 steps.

It begins with Vicuna, CLIP, SAM and GPT4RoI's region encoder, put together by

  python -m convert from-torch vicuna-7b --clip CLIP --sam sam.pth --region GPT4RoI --out start
  python -m train --config configs/pretrain.py --out runs/pretrain

The paper gives no shares; these are the released training's between segmentation (here referring
and grounded captions), regions and captions.
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import part
from glamm_jax.config.experiment import ExperimentConfig

SEGMENTATION, REGIONS, CAPTIONS = 0.45, 0.40, 0.15


def get_config() -> ExperimentConfig:
    """One dataset, four tasks, each a part of its own."""
    like = finetune_gcg.get_config()
    quotas = replace(
        like.data.batch_shape,
        region_images=2,  # two pictures in five ask about regions
        regions=20,
        grounding_images=3,
        mask_height=1024,
        mask_width=1024,
    )
    mixture = (
        replace(part("grand", "referring"), weight=SEGMENTATION / 2),
        replace(part("grand", "gcg"), weight=SEGMENTATION / 2),
        replace(part("grand", "region"), weight=REGIONS),
        replace(part("grand", "caption"), weight=CAPTIONS),
    )
    return replace(
        like,
        data=replace(like.data, mixture=mixture, batch_shape=quotas),
        optim=replace(like.optim, total_steps=35_000),
        checkpoint=replace(like.checkpoint, every=500),
    )
