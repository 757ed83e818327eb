"""A released model learns your own pictures, described in docs/your-data.md, on one device.

  python -m convert dataset jsonl --source photos.jsonl --out shards       shards/glamm_photos
  python -m convert from-torch GLaMM-FullScope --clip CLIP --out glamm
  python -m train --config configs/finetune_own.py --out runs/photos
  python -m train.export runs/photos --out photos-glamm

Another dataset, other tasks: copy this file.
"""

from __future__ import annotations

from dataclasses import replace

from configs import finetune_gcg
from configs.mixtures import part
from glamm_jax.config.experiment import ExperimentConfig, InitConfig, MeshConfig


def get_config() -> ExperimentConfig:
    """A few hundred steps of sixteen pictures; a lower rate than from the start."""
    like = finetune_gcg.get_config()
    quotas = replace(like.data.batch_shape, region_images=2, regions=20)
    mixture = (
        part("photos", "gcg"),
        part("photos", "referring"),
        part("photos", "region"),
    )
    return replace(
        like,
        data=replace(
            like.data, mixture=mixture, batch_shape=quotas, tokenizer="glamm", batch_slices=1
        ),
        optim=replace(
            like.optim, peak_lr=1e-4, warmup_steps=20, total_steps=500, accumulation_steps=4
        ),
        init=InitConfig(model="glamm"),
        mesh=MeshConfig(),
        checkpoint=replace(like.checkpoint, every=100),
    )
