"""The demo's training: the shipped tiny model learns another mini-world, from shards of GranD.

Only the parameters of the released training are trained: LoRA on q and v, embeddings, lm_head,
region encoder, L-P projection, pixel decoder.

  glamm-jax train --config configs/adapt.py --out runs/adapted --set data.mixture.0.dataset=SHARDS
"""

from __future__ import annotations

from dataclasses import replace

from configs.learn import adapt
from configs.mixtures import entry
from glamm_jax.config.experiment import ConversationConfig, ExperimentConfig, InitConfig


def get_config() -> ExperimentConfig:
    """A grounded caption, expressions and regions of each image in one row."""
    config = adapt("released")
    conversation = ConversationConfig(max_turns=2, max_regions=2)
    mixture = (entry("grand", "gcg", "referring", "region", conversation=conversation),)
    return replace(
        config,
        data=replace(config.data, mixture=mixture),
        optim=replace(config.optim, total_steps=240),  # about two minutes on two cores
        init=InitConfig(model="checkpoints/miniworld-tiny"),
    )
