"""A training configuration as small as they come; read by the tests and by `python -m train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import glamm_jax.miniworld  # noqa: F401  # registers "miniworld/NAME"
from glamm_jax.config import tiny, with_lora
from glamm_jax.config.experiment import (
    DataConfig,
    ExperimentConfig,
    MeshConfig,
    MixtureEntry,
    OptimConfig,
)
from glamm_jax.types import BatchShape

MIXTURE = tuple(MixtureEntry("miniworld/easy@32", (task,)) for task in ("gcg", "referring"))
TOKENIZER = Path(__file__).parent / "goldens" / "tokenizer"


def get_config() -> ExperimentConfig:
    """Every part, with adapters, and the released set of trained parameters."""
    model = tiny(base_vocab_size=800)
    clip = replace(model.clip, image_size=8, num_layers=4, region_layers=(-5, -4, -3, -2))
    region = replace(model.region, num_fusion_rounds=1, roi_size=2)
    sam = replace(model.sam, image_size=64, num_layers=2, global_blocks=(1,), decoder_layers=1)
    quotas = BatchShape(
        rows=2,
        tokens=200,
        targets=120,
        images=2,
        grounding_images=2,
        masks=8,
        mask_height=32,
        mask_width=32,
    )
    data = DataConfig(MIXTURE, str(TOKENIZER), batch_shape=quotas)
    optim = OptimConfig(peak_lr=1e-2, warmup_steps=2, total_steps=30, trainable="released")
    model = with_lora(replace(model, clip=clip, region=region, sam=sam))
    return ExperimentConfig(model, data, optim, mesh=MeshConfig(devices=1), seed=3)
