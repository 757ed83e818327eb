"""GLaMM's fine-tuning for grounded conversations (paper, A.3): batch 160, 5,000 steps on GranD_f.

Beside GranD_f, one picture in eleven asks for classes, as in the released training's options.
`get_config(human=False)` is the row of table 3 with a dagger: without the 1K pictures that people
annotated.

  python -m train --config configs/finetune_gcg.py --out runs/gcg
"""

from __future__ import annotations

from dataclasses import replace

from configs.mixtures import gcg, mixed, semantic
from glamm_jax.config import released, with_lora
from glamm_jax.config.experiment import (
    CheckpointConfig,
    DataConfig,
    ExperimentConfig,
    InitConfig,
    MeshConfig,
    OptimConfig,
)
from glamm_jax.types import BatchShape

# Four pictures for each of eight devices, five times a step: 160.
DEVICES, ACCUMULATE, PICTURES = 8, 5, 4
QUOTAS = BatchShape(
    rows=PICTURES,
    tokens=1536,  # the original's longest
    targets=512,
    images=PICTURES,
    grounding_images=PICTURES,
    masks=8 * PICTURES,
    mask_height=640,
    mask_width=640,
)


def get_config(human: bool = True) -> ExperimentConfig:
    """With or without the pictures that people annotated."""
    model = with_lora(released())
    automatic = {gcg(name): 3.0 for name in ("grandf_refcocog", "grandf_psg", "grandf_flickr")}
    by_people = {gcg("grandf_ha"): 1.0} if human else {}
    return ExperimentConfig(
        model=replace(model, compute_dtype="bfloat16", region=replace(model.region, remat="full")),
        data=DataConfig(
            mixture=mixed(1.0, {semantic(): 1.0, **automatic, **by_people}),
            tokenizer="start",
            batch_shape=QUOTAS,
            batch_slices=DEVICES,
            workers=1,
            prefetch=4,
        ),
        optim=OptimConfig(total_steps=5000, accumulation_steps=ACCUMULATE),
        init=InitConfig(model="start"),
        mesh=MeshConfig(data=1, fsdp=DEVICES),
        checkpoint=CheckpointConfig(every=250, keep_last=2, keep_best=1),
    )
