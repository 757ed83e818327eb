"""The four tasks of pretraining on annotated scenes of the mini-world, with the shipped tiny model.

`python -m examples.learn_annotations` runs it on annotations of different origin.

  glamm-jax train --config configs/miniworld_pretrain.py --out RUN \\
      --set data.mixture.0.dataset=SHARDS --set data.mixture.1.dataset=SHARDS \\
      --set data.mixture.2.dataset=SHARDS --set data.mixture.3.dataset=SHARDS
"""

from __future__ import annotations

from dataclasses import replace

from configs.learn import adapt
from configs.mixtures import entry
from configs.pretrain import CAPTIONS, REGIONS, SEGMENTATION
from glamm_jax.config.experiment import ConversationConfig, ExperimentConfig, InitConfig

SHARES = {
    "referring": SEGMENTATION / 2,
    "gcg": SEGMENTATION / 2,
    "region": REGIONS,
    "caption": CAPTIONS,
}
STEPS = 400


def get_config() -> ExperimentConfig:
    """An entry for each task, with the shares of configs/pretrain.py."""
    config = adapt("released")
    conversation = ConversationConfig(max_turns=2, max_regions=2)
    mixture = tuple(
        replace(entry("grand", task, conversation=conversation), weight=share)  # type: ignore[arg-type]  # a key of SHARES
        for task, share in SHARES.items()
    )
    return replace(
        config,
        data=replace(config.data, mixture=mixture),
        optim=replace(config.optim, total_steps=STEPS),
        init=InitConfig(model="checkpoints/miniworld-tiny"),
    )
