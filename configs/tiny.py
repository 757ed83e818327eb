"""The tiny model learns the mini-world from nothing: every part runs, on two CPU cores."""

from __future__ import annotations

from glamm_jax.config import tiny
from glamm_jax.config.experiment import Asking, DataConfig, ExperimentConfig, OptimConfig, Part
from glamm_jax.types import Capacity


def get_config() -> ExperimentConfig:
    """Fifty steps of two pictures: enough for the loss to fall, far from enough to see."""
    model = tiny(base_vocab_size=800)
    return ExperimentConfig(
        model=model,
        data=DataConfig(
            mixture=(
                Part("miniworld/easy", ("gcg",)),
                Part("miniworld/easy", ("referring",), asking=Asking(max_turns=1)),
            ),
            tokenizer="tests/goldens/tokenizer",
            image_size=96,
            quotas=Capacity(
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
        optim=OptimConfig(peak_lr=3e-3, warmup_steps=5, total_steps=50, trained="everything"),
    )
