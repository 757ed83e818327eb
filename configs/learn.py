"""The tiny model that learns the mini-world in `make learn`: its size, its data, its runs.

`python -m train --config configs/learn.py` is the last of the runs, from nothing: slower to learn.
"""

from __future__ import annotations

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
VOCABULARY = 700  # pieces; GLaMM's seven tokens follow
PICTURE = 64  # pixels of a side, as they are drawn and as both encoders see them
IMAGES = 16  # of a batch


def model_config() -> GLaMMConfig:
    """Three million parameters: few heads, shallow towers, two region levels."""
    return GLaMMConfig(
        clip=CLIPConfig(
            image_size=PICTURE,
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
            image_size=PICTURE,
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
    """Worlds with their weights; each picture with a caption, two expressions and two regions, in
    one row."""
    tasks = ("gcg", "referring", "region")
    asking = ConversationConfig(max_turns=2, max_regions=2)
    return DataConfig(
        mixture=tuple(
            MixtureEntry(f"miniworld/{world}@{PICTURE}", tasks, weight, conversation=asking)
            for world, weight in worlds.items()
        ),
        tokenizer=TOKENIZER,
        share_prefix=True,
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
            mask_height=PICTURE,
            mask_width=PICTURE,
        ),
    )


def run(
    worlds: dict[str, float], trained: TrainableSet, steps: int, rate: float = 1.0
) -> ExperimentConfig:
    """An ordinary run: `rate` is in relation to the rates that serve weights from nothing."""
    model = model_config()
    if trained == "released":
        model = with_lora(model)
    optim = OptimConfig(
        peak_lr=2e-3 * rate,
        muon_lr=1e-2 * rate,
        warmup_steps=40,
        total_steps=steps,
        trainable=trained,
    )
    return ExperimentConfig(
        model=model,
        data=data_config(worlds, model),
        optim=optim,
        mesh=MeshConfig(data=1),
        checkpoint=CheckpointConfig(every=100, keep_last=1),
    )


def first() -> ExperimentConfig:
    """The decoder learns to speak where every colour occurs on every shape; frozen encoders."""
    return run({"easy-pale": 1.0}, "all_but_encoders", 300)


def speak() -> ExperimentConfig:
    """The decoder learns the world's own colours, too."""
    return run({"easy-seen": 1.0, "easy-pale": 1.0}, "all_but_encoders", 350)


def get_config() -> ExperimentConfig:
    """Everything learns together."""
    return run({"easy-seen": 2.0, "easy-pale": 1.0}, "everything", 800)


def polish() -> ExperimentConfig:
    """... and once more, at half the rate."""
    return run({"easy-seen": 3.0, "easy-pale": 1.0}, "everything", 700, rate=0.5)


def adapting(trained: TrainableSet) -> ExperimentConfig:
    """The second run: a world with a new shape and a new ground. Adapters begin at zero and are
    small: they take twice the rate, and twice the steps."""
    steps, rate = (480, 2.0) if trained == "released" else (240, 1.0)
    return run({"easy-seen-extended": 1.0}, trained, steps, rate)
