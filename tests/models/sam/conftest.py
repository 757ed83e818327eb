"""Hugging Face's SAM in float64, small and random, and ours in float32 with the same weights."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
from flax import nnx

from glamm_jax.config import SAMConfig
from glamm_jax.models.sam.sam import SAM
from glamm_jax.weights.flat_state import fill_state, state_shapes
from glamm_jax.weights.sam import sam_table
from glamm_jax.weights.tensor_sinks import MemoryWriter
from glamm_jax.weights.tensor_sources import MemorySource
from glamm_jax.weights.transfer import import_tensors
from tools.parity.golden_model import golden_module

# Hugging Face's names, in the order of replacement, and the original's.
RENAMED = (
    (r"^shared_image_embedding\.positional_embedding$", None),
    (r"shared_embedding\.positional_embedding", "pe_layer.positional_encoding_gaussian_matrix"),
    (r"^vision_encoder\.layers", "image_encoder.blocks"),
    (r"^vision_encoder", "image_encoder"),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.layer_norm2", "neck.3"),
    (r"point_embed\.", "point_embeddings."),
    (r"not_a_point_embeddings\.", "not_a_point_embed."),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"layer_norm(\d)", r"norm\1"),
)


class Twins(NamedTuple):
    """The same model twice, and its tensors under the original's names."""

    config: SAMConfig
    theirs: Any
    ours: SAM
    tensors: dict[str, np.ndarray]


def original_name(name: str, iou_layers: int) -> str | None:
    """None for a tensor that the original does not have a second time."""
    for pattern, replacement in RENAMED:
        if re.search(pattern, name):
            if replacement is None:
                return None
            name = re.sub(pattern, replacement, name)
    layers = iou_layers if "iou_prediction_head" in name else 3
    name = re.sub(
        r"(mlps\.\d|head)\.layers\.(\d)", lambda m: f"{m[1]}.layers.{int(m[2]) + 1}", name
    )
    return name.replace("proj_in", "layers.0").replace("proj_out", f"layers.{layers - 1}")


def build_ours(config: SAMConfig, tensors: dict[str, np.ndarray]) -> SAM:
    graph, abstract = nnx.split(nnx.eval_shape(lambda: SAM(config, rngs=nnx.Rngs(0))))
    writer = MemoryWriter()
    import_tensors(sam_table(config), MemorySource(tensors), state_shapes(abstract), writer)
    return nnx.merge(graph, fill_state(abstract, writer.arrays))


def build_theirs(config: SAMConfig, seed: int) -> Any:
    torch = pytest.importorskip("torch")
    import transformers as hf

    common: dict[str, Any] = {"image_size": config.image_size, "patch_size": config.patch_size}
    vision = hf.SamVisionConfig(
        hidden_size=config.hidden_dim,
        output_channels=config.out_dim,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        mlp_dim=config.mlp_dim,
        window_size=config.window_size,
        global_attn_indexes=list(config.global_blocks),
        num_pos_feats=config.out_dim // 2,
        **common,
    )
    prompt = hf.SamPromptEncoderConfig(
        hidden_size=config.out_dim, mask_input_channels=config.mask_channels, **common
    )
    decoder = hf.SamMaskDecoderConfig(
        hidden_size=config.out_dim,
        mlp_dim=config.decoder_mlp_dim,
        num_hidden_layers=config.decoder_layers,
        num_attention_heads=config.decoder_heads,
        num_multimask_outputs=config.num_multimasks,
        iou_head_depth=config.iou_layers,
        iou_head_hidden_dim=config.iou_dim,
        layer_norm_eps=1e-5,  # the original's; Hugging Face's default is 1e-6
    )
    parts = [part.to_dict() for part in (vision, prompt, decoder)]
    generator = torch.Generator().manual_seed(seed)
    model = hf.SamModel(
        hf.SamConfig(
            vision_config=parts[0], prompt_encoder_config=parts[1], mask_decoder_config=parts[2]
        )
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim < 2 else parameter[0].numel() ** -0.5
            parameter.copy_(noise * scale + (1.0 if "norm" in name and "weight" in name else 0.0))
        model.prompt_encoder.shared_embedding = model.shared_image_embedding
    return model.double()  # so that the differences seen are ours


@pytest.fixture(scope="session")
def twins() -> Callable[[SAMConfig, int], Twins]:
    """Hugging Face's model of a configuration, and ours with its weights."""
    made: dict[tuple[SAMConfig, int], Twins] = {}

    def make(config: SAMConfig, seed: int = 0) -> Twins:
        if (config, seed) not in made:
            theirs = build_theirs(config, seed)
            tensors = {}
            for name, value in theirs.state_dict().items():
                original = original_name(name, config.iou_layers)
                if original is not None:
                    tensors[original] = value.numpy().astype(np.float32)
            made[config, seed] = Twins(config, theirs, build_ours(config, tensors), tensors)
        return made[config, seed]

    return make


@pytest.fixture(scope="session")
def small_config() -> SAMConfig:
    """Windows that need padding, two kinds of blocks, every part small."""
    return SAMConfig(
        image_size=64,
        patch_size=8,
        hidden_dim=32,
        num_layers=4,
        num_heads=4,
        mlp_ratio=2.0,
        window_size=3,
        global_blocks=(1, 3),
        out_dim=16,
        mask_channels=8,
        decoder_heads=2,
        decoder_mlp_dim=24,
        iou_dim=12,
    )


@pytest.fixture(scope="session")
def sam(small_config) -> SAM:
    """The small model, with weights by the golden rule."""
    return golden_module(lambda: SAM(small_config, rngs=nnx.Rngs(0)), sam_table(small_config))


@pytest.fixture(scope="session")
def jitted(sam) -> Callable[..., Any]:
    """jitted(name, *arrays, **static): a method of the small model, compiled once a shape."""
    graph, values = nnx.split(sam)

    @functools.partial(jax.jit, static_argnames=("name", "static"))
    def run(name, values, arrays, static):
        return getattr(nnx.merge(graph, values), name)(*arrays, **dict(static))

    return lambda name, *arrays, **static: run(name, values, arrays, tuple(static.items()))
