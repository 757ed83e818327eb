"""The four tasks of pretraining on annotated scenes of the mini-world, with the shipped tiny model.

`python -m examples.learn_annotations` runs it on annotations of different origin.

  glamm-jax train --config configs/miniworld_pretrain.py --out RUN \\
      --set data.mixture.0.dataset=SHARDS
"""

from __future__ import annotations

from dataclasses import replace

from configs.learn import adapt
from configs.mixtures import entry
from glamm_jax.config.experiment import ConversationConfig, ExperimentConfig, InitConfig

STEPS = 280


def get_config() -> ExperimentConfig:
    """All tasks of an image in one row; configs/pretrain.py has rows of single tasks."""
    config = adapt("released")
    conversation = ConversationConfig(max_turns=2, max_regions=2)
    mixture = (entry("grand", "gcg", "referring", "region", "caption", conversation=conversation),)
    return replace(
        config,
        data=replace(config.data, mixture=mixture),
        optim=replace(config.optim, total_steps=STEPS),
        init=InitConfig(model="checkpoints/miniworld-tiny"),
    )
