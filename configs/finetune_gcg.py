"""Fine-tuning for grounded conversation generation (paper, A.3): 5,000 steps of 160 on GranD_f.

One image in eleven is from semantic segmentation, as in the released training's options.
`get_config(human_annotated=False)` is the row of table 3 with a dagger: without the 1,000 images
that people annotated.

  glamm-jax train --config configs/finetune_gcg.py --out runs/gcg
"""

from __future__ import annotations

from dataclasses import replace

from configs.mixtures import gcg, mix, semantic
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

# On eight devices, five batches a step of four images a device. `step_images` decides on others.
STEP_IMAGES, DEVICES, ACCUMULATION_STEPS, IMAGES = 160, 8, 5, 4
# A sample of one image has 775 tokens on average, and 1,536 at most in the original: two share a
# row, and what is left of a row holds longer ones.
IMAGES_PER_ROW = 2
BATCH_SHAPE = BatchShape(
    rows=IMAGES // IMAGES_PER_ROW,
    tokens=1792,
    targets=512 * IMAGES_PER_ROW,
    images=IMAGES,
    grounding_images=IMAGES,
    masks=8 * IMAGES,
    mask_height=640,
    mask_width=640,
)


def get_config(human_annotated: bool = True) -> ExperimentConfig:
    """With or without the images that people annotated."""
    model = with_lora(released())
    automatic = {gcg(name): 3.0 for name in ("grandf_refcocog", "grandf_psg", "grandf_flickr")}
    human = {gcg("grandf_ha"): 1.0} if human_annotated else {}
    return ExperimentConfig(
        model=replace(model, compute_dtype="bfloat16", region=replace(model.region, remat="full")),
        data=DataConfig(
            mixture=mix(1.0, {semantic(): 1.0, **automatic, **human}),
            tokenizer="start",
            batch_shape=BATCH_SHAPE,
            share_prefix=True,
            fill_rows=True,
            batch_slices=DEVICES,
            step_images=STEP_IMAGES,
            workers=1,
            prefetch=4,
        ),
        optim=OptimConfig(total_steps=5000, accumulation_steps=ACCUMULATION_STEPS),
        init=InitConfig(model="start"),
        mesh=MeshConfig(fsdp=DEVICES),
        checkpoint=CheckpointConfig(every=250, every_minutes=10.0, keep_last=2, keep_best=1),
    )
