"""The shipped tiny model learns another mini-world, whose shards are in GranD's way: `make demo`.

Only the released set is trained: adapters on q and v, embeddings, head, region encoder, L-P, pixel
decoder.
"""

from __future__ import annotations

from dataclasses import replace

from configs.learn import adapting
from configs.mixtures import part
from glamm_jax.config.experiment import ConversationConfig, ExperimentConfig, InitConfig


def get_config() -> ExperimentConfig:
    """Grounded captions, expressions and regions of one picture in one row."""
    config = adapting("released")
    asked = part(
        "grand", "gcg", "referring", "region", asking=ConversationConfig(max_turns=2, max_regions=2)
    )
    return replace(
        config,
        data=replace(config.data, mixture=(asked,)),
        optim=replace(config.optim, total_steps=240),  # some three minutes
        init=InitConfig(model="checkpoints/miniworld-tiny"),
    )
