"""A tiny model on rendered scenes, from random weights: every part runs, on two CPU cores.

glamm-jax train --config configs/tiny.py --out runs/tiny
"""

from __future__ import annotations

import glamm_jax.miniworld  # noqa: F401  # registers the datasets miniworld/NAME
from glamm_jax.config import tiny
from glamm_jax.config.experiment import (
    ConversationConfig,
    DataConfig,
    ExperimentConfig,
    MeshConfig,
    MixtureEntry,
    OptimConfig,
)
from glamm_jax.types import BatchShape


def get_config() -> ExperimentConfig:
    """50 steps of two images: the loss falls; segmentation is not learned yet."""
    model = tiny(base_vocab_size=800)
    return ExperimentConfig(
        model=model,
        data=DataConfig(
            mixture=(
                MixtureEntry("miniworld/easy@96", ("gcg",)),
                MixtureEntry(
                    "miniworld/easy@96",
                    ("referring",),
                    conversation=ConversationConfig(max_turns=1),
                ),
            ),
            tokenizer="tests/goldens/tokenizer",
            share_prefix=True,
            fill_rows=True,
            batch_shape=BatchShape(
                rows=2,
                tokens=model.clip.num_patches + 200,
                targets=100,
                images=2,
                grounding_images=2,
                masks=6,
                mask_height=96,
                mask_width=96,
            ),
        ),
        optim=OptimConfig(peak_lr=3e-3, warmup_steps=5, total_steps=50, trainable="everything"),
        mesh=MeshConfig(devices=1),
    )
