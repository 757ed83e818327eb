"""Fine-tuning of a tiny model on captions in GranD_f's format, after configs/miniworld_pretrain.py.

  glamm-jax train --config configs/miniworld_finetune_gcg.py --out RUN --set init.model=MODEL \\
      --set data.mixture.0.dataset=SHARDS
"""

from __future__ import annotations

from dataclasses import replace

from configs.learn import adapt
from configs.mixtures import entry
from glamm_jax.config.experiment import ExperimentConfig, InitConfig

STEPS = 80


def get_config() -> ExperimentConfig:
    """Grounded captions alone."""
    config = adapt("released")
    return replace(
        config,
        data=replace(config.data, mixture=(entry("grandf_ha", "gcg"),)),
        optim=replace(config.optim, total_steps=STEPS),
        init=InitConfig(model="checkpoints/miniworld-tiny"),
    )
