"""Fine-tuning for region captions (paper, A.3; table 5) on Visual Genome: 2,500 steps.

glamm-jax train --config configs/finetune_region_visual_genome.py --out runs/regions
"""

from __future__ import annotations

from configs import finetune_region_refcocog
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """`finetune_region_refcocog` on another dataset."""
    return finetune_region_refcocog.get_config("visual_genome")
