"""All tasks at once, as the model of the original's demo was trained: 5,000 steps of 160.

Of 100 images, 45 are for segmentation, 40 for regions and 15 for captions and conversations.
Differs: there a batch has one kind, which is sampled; here every batch has all kinds.

  glamm-jax train --config configs/finetune_combined.py --out runs/combined
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import BARE_IMAGE, REFERRING, entry, gcg, mix, referring, semantic
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """Shares and rates of the released training's options for this recipe."""
    base = finetune_gcg.get_config()
    segmentation = {
        semantic(): 4.0,
        referring(*REFERRING, "refclef"): 3.0,
        gcg("grandf_refcocog"): 2.0,
        gcg("grandf_psg"): 2.0,
        gcg("grandf_flickr"): 2.0,
        gcg("grandf_ha"): 1.0,
    }
    regions = {
        (entry("refcoco_regions", "region", conversation=BARE_IMAGE),): 1.0,
        (entry("refcoco_plus_regions", "region", conversation=BARE_IMAGE),): 1.0,
        (entry("refcocog_regions", "region"),): 1.0,
        (entry("visual_genome", "region"),): 1.0,
        (entry("flickr_regions", "region"),): 1.0,
    }
    images = {
        (entry("coco_captions", "caption"),): 1.0,
        (entry("llava_instruct_150k", "vqa", conversation=BARE_IMAGE),): 2.0,
    }
    shape = replace(base.data.batch_shape, region_images=2, regions=20, grounding_images=3)
    mixture = (*mix(0.45, segmentation), *mix(0.40, regions), *mix(0.15, images))
    return replace(base, data=replace(base.data, mixture=mixture, batch_shape=shape))
