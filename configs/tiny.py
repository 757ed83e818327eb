"""The tiny model learns the mini-world from nothing: every part runs, on two CPU cores."""

from __future__ import annotations

from glamm_jax.config import tiny
from glamm_jax.experiment import DataConfig, ExperimentConfig, OptimConfig


def get_config() -> ExperimentConfig:
    """Fifty steps of two pictures: enough for the loss to fall, far from enough to see."""
    return ExperimentConfig(
        model=tiny(base_vocab_size=800),
        data=DataConfig(
            source="miniworld",
            tokenizer="tests/goldens/tokenizer",
            batch_size=2,
            image_size=96,
            max_text_tokens=160,
        ),
        optim=OptimConfig(peak_lr=3e-3, warmup_steps=5, total_steps=50, trained="everything"),
    )
