"""Fine-tuning for LLaVA-Bench (paper, A.3; table 8) on LLaVA-Instruct-80K.

glamm-jax train --config configs/finetune_conversation.py --out runs/conversation
"""

from __future__ import annotations

from configs import finetune_caption
from glamm_jax.config.experiment import ExperimentConfig


def get_config() -> ExperimentConfig:
    """`finetune_caption` on the smaller dataset."""
    return finetune_caption.get_config("llava_instruct_80k")
