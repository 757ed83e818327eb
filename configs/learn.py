"""The tiny model that is trained on the mini-world by `make learn`: its size, its data, its stages.

`glamm-jax train --config configs/learn.py --out RUN` is the joint stage from random weights, which
takes longer to converge.
"""

from __future__ import annotations

import glamm_jax.miniworld  # noqa: F401  # registers the datasets miniworld/NAME
from glamm_jax.config import (
    CLIPConfig,
    GLaMMConfig,
    LlamaConfig,
    RegionConfig,
    SAMConfig,
    TokenConfig,
    with_lora,
)
from glamm_jax.config.experiment import (
    CheckpointConfig,
    ConversationConfig,
    DataConfig,
    ExperimentConfig,
    MeshConfig,
    MixtureEntry,
    OptimConfig,
    TrainableSet,
)
from glamm_jax.types import BatchShape

TOKENIZER = "examples/learn_miniworld/tokenizer"
VOCABULARY = 700  # pieces; the ids of GLaMM's seven tokens follow
IMAGE_SIZE = 64  # pixels of a side, of the scenes and for both encoders
IMAGES = 16  # of a batch


def model_config() -> GLaMMConfig:
    """Three million parameters: few heads, shallow towers, two region levels."""
    return GLaMMConfig(
        clip=CLIPConfig(
            image_size=IMAGE_SIZE,
            patch_size=8,
            hidden_dim=128,
            mlp_dim=512,
            num_layers=4,
            num_heads=2,
            projector_layer=-1,
            region_layers=(-2, -1),
        ),
        llama=LlamaConfig(
            vocab_size=VOCABULARY + 7,
            hidden_dim=128,
            mlp_dim=384,
            num_layers=3,
            num_heads=2,
            max_positions=512,
            remat="none",
        ),
        region=RegionConfig(
            mid_dim=128,
            position_dim=32,
            num_fusion_rounds=1,
            norm_groups=8,
            roi_size=4,
            patch_frame=8.0,
            box_scale=None,
        ),
        sam=SAMConfig(
            image_size=IMAGE_SIZE,
            patch_size=8,
            hidden_dim=96,
            num_layers=4,
            num_heads=2,
            window_size=4,
            global_blocks=(1, 3),
            out_dim=32,
            mask_channels=16,
            decoder_heads=2,
            decoder_mlp_dim=64,
            iou_dim=32,
        ),
        tokens=TokenConfig.appended_to(VOCABULARY),
    )


def data_config(worlds: dict[str, float], model: GLaMMConfig) -> DataConfig:
    """Worlds by weight; a caption, two expressions and two regions of an image in one row."""
    conversation = ConversationConfig(max_turns=2, max_regions=2)
    return DataConfig(
        mixture=tuple(
            MixtureEntry(
                f"miniworld/{world}@{IMAGE_SIZE}",
                ("gcg", "referring", "region"),
                weight,
                conversation=conversation,
            )
            for world, weight in worlds.items()
        ),
        tokenizer=TOKENIZER,
        share_prefix=True,
        fill_rows=True,
        max_deferred=8,
        batch_shape=BatchShape(
            rows=IMAGES,
            tokens=model.clip.num_patches + 90,
            targets=48,
            images=IMAGES,
            region_images=IMAGES,
            regions=2 * IMAGES,
            grounding_images=IMAGES,
            masks=5 * IMAGES,
            mask_height=IMAGE_SIZE,
            mask_width=IMAGE_SIZE,
        ),
    )


def stage(
    worlds: dict[str, float], trainable: TrainableSet, steps: int, lr_scale: float = 1.0
) -> ExperimentConfig:
    """A training run on some worlds.

    Args:
        worlds: name -> sampling weight.
        trainable: which parameters are trained.
        steps: length of the run.
        lr_scale: factor of the learning rates for random initial weights.
    """
    model = model_config()
    if trainable == "released":
        model = with_lora(model)
    optim = OptimConfig(
        peak_lr=2e-3 * lr_scale,
        muon_lr=1e-2 * lr_scale,
        warmup_steps=40,
        total_steps=steps,
        trainable=trainable,
    )
    return ExperimentConfig(
        model=model,
        data=data_config(worlds, model),
        optim=optim,
        mesh=MeshConfig(devices=1),
        checkpoint=CheckpointConfig(every=100, keep_last=1),
    )


def decoder() -> ExperimentConfig:
    """Train the language model where every colour occurs on every shape; frozen encoders."""
    return stage({"easy-pale": 1.0}, "all_but_encoders", 300)


def decoder_mixed() -> ExperimentConfig:
    """Train the language model on the world's own colours, too."""
    return stage({"easy-seen": 1.0, "easy-pale": 1.0}, "all_but_encoders", 350)


def get_config() -> ExperimentConfig:
    """Train everything jointly."""
    worlds = {"easy-similar": 2.0, "easy-seen": 1.0, "easy-pale": 1.0}
    return stage(worlds, "everything", 800)


def joint_final() -> ExperimentConfig:
    """Continue at half the learning rate."""
    worlds = {"easy-similar": 2.0, "easy-seen": 1.0, "easy-pale": 1.0}
    return stage(worlds, "everything", 700, lr_scale=0.5)


def adapt(trainable: TrainableSet) -> ExperimentConfig:
    """Continue on a world with a new shape and a new place.

    LoRA adapters start at zero and are small: they get twice the learning rate and twice the steps.
    """
    steps, lr_scale = (480, 2.0) if trainable == "released" else (240, 1.0)
    return stage({"easy-seen-extended": 1.0}, trainable, steps, lr_scale)
