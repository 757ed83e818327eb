"""Fine-tuning for image captions (paper, A.3; table 6) on LLaVA-Instruct-150K.

The paper gives no number of steps; these are those of the other tasks.

  glamm-jax train --config configs/finetune_caption.py --out runs/caption
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import BARE_IMAGE, entry
from glamm_jax.config.experiment import ExperimentConfig


def get_config(dataset: str = "llava_instruct_150k") -> ExperimentConfig:
    """Conversations about complete images; neither SAM nor the region encoder runs."""
    base = finetune_gcg.get_config()
    # Their answers are long: fewer than two share a row on average.
    shape = replace(base.data.batch_shape, rows=3, grounding_images=0, masks=0)
    mixture = (entry(dataset, "vqa", conversation=BARE_IMAGE),)
    return replace(base, data=replace(base.data, mixture=mixture, batch_shape=shape))
