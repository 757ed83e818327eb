"""All of GLaMM at once, as the model of the original's demo was trained: 5,000 steps of 160.

Of a hundred pictures 45 ask for masks, 40 about regions and 15 about the whole. Differs: there a
batch holds one kind, and its kind is drawn; here every batch holds all, in these shares.

  python -m train --config configs/finetune_combined.py --out runs/combined
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import BARE, REFERRING, gcg, mixed, part, referring, semantic
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """Shares and rates of the released training's options for this recipe."""
    like = finetune_gcg.get_config()
    masks = {
        semantic(): 4.0,
        referring(*REFERRING, "refclef"): 3.0,
        gcg("grandf_refcocog"): 2.0,
        gcg("grandf_psg"): 2.0,
        gcg("grandf_flickr"): 2.0,
        gcg("grandf_ha"): 1.0,
    }
    regions = {
        (part("refcoco_regions", "region", asking=BARE),): 1.0,
        (part("refcoco_plus_regions", "region", asking=BARE),): 1.0,
        (part("refcocog_regions", "region"),): 1.0,
        (part("visual_genome", "region"),): 1.0,
        (part("flickr_regions", "region"),): 1.0,
    }
    pictures = {
        (part("coco_captions", "caption"),): 1.0,
        (part("llava_instruct_150k", "vqa", asking=BARE),): 2.0,
    }
    quotas = replace(like.data.batch_shape, region_images=2, regions=20, grounding_images=3)
    mixture = (*mixed(0.45, masks), *mixed(0.40, regions), *mixed(0.15, pictures))
    return replace(like, data=replace(like.data, mixture=mixture, batch_shape=quotas))
