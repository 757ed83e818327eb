"""Fine-tune a released model on your own images, described in docs/your-data.md, on one device.

  glamm-jax convert dataset jsonl --source photos.jsonl --out shards       shards/glamm_photos
  glamm-jax convert from-torch GLaMM-FullScope --clip CLIP --out glamm
  glamm-jax train --config configs/finetune_own.py --data shards --out runs/photos
  glamm-jax export runs/photos --out photos-glamm

For another dataset or other tasks, copy this file.
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import entry
from glamm_jax.config.experiment import ExperimentConfig, InitConfig, MeshConfig


def get_config() -> ExperimentConfig:
    """500 steps of 16 images, at a lower learning rate than training from scratch."""
    base = finetune_gcg.get_config()
    return replace(
        base,
        data=replace(
            base.data,
            mixture=(
                entry("photos", "gcg"),
                entry("photos", "referring"),
                entry("photos", "region"),
            ),
            batch_shape=replace(base.data.batch_shape, region_images=2, regions=20),
            tokenizer="glamm",
            batch_slices=1,
            step_images=0,
        ),
        optim=replace(
            base.optim, peak_lr=1e-4, warmup_steps=20, total_steps=500, accumulation_steps=4
        ),
        init=InitConfig(model="glamm"),
        mesh=MeshConfig(devices=1),
        checkpoint=replace(base.checkpoint, every=100),
    )
