"""Original Segment Anything names <-> the leaves of `models.sam.sam.SAM`."""

from __future__ import annotations

import numpy as np

from glamm_jax.config import RGB, SAMConfig
from glamm_jax.weights.rules import UnmappedTensor, WeightRule, WeightTable


def linear_rules(tensor: str, leaf: str, layers: tuple[int, ...] = ()) -> tuple[WeightRule, ...]:
    """Weight and bias of a dense layer."""
    return (
        WeightRule(f"{tensor}.weight", f"{leaf}.kernel", "linear", layers),
        WeightRule(f"{tensor}.bias", f"{leaf}.bias", "same", layers),
    )


def norm_rules(tensor: str, leaf: str, layers: tuple[int, ...] = ()) -> tuple[WeightRule, ...]:
    """Gain and bias of a layer norm."""
    return (
        WeightRule(f"{tensor}.weight", f"{leaf}.scale", "same", layers),
        WeightRule(f"{tensor}.bias", f"{leaf}.bias", "same", layers),
    )


def conv_rules(tensor: str, leaf: str, transform: str) -> tuple[WeightRule, ...]:
    """Kernel and bias of a convolution of some layout."""
    return (
        WeightRule(f"{tensor}.weight", f"{leaf}.kernel", transform),
        WeightRule(f"{tensor}.bias", f"{leaf}.bias"),
    )


def _block_rules(stack: str, layers: tuple[int, ...]) -> tuple[WeightRule, ...]:
    """The ViT blocks of one kind, numbered `layers` in the checkpoint, as one stack."""
    block = "blocks.{layer}"
    tables = [
        WeightRule(f"{block}.attn.{name}", f"{stack}.attention.{name}", "same", layers)
        for name in ("rel_pos_h", "rel_pos_w")
    ]
    return (
        *norm_rules(f"{block}.norm1", f"{stack}.norm1", layers),
        *linear_rules(f"{block}.attn.qkv", f"{stack}.attention.qkv", layers),
        *linear_rules(f"{block}.attn.proj", f"{stack}.attention.proj", layers),
        *tables,
        *norm_rules(f"{block}.norm2", f"{stack}.norm2", layers),
        *linear_rules(f"{block}.mlp.lin1", f"{stack}.mlp.up", layers),
        *linear_rules(f"{block}.mlp.lin2", f"{stack}.mlp.down", layers),
    )


def image_encoder_table(config: SAMConfig) -> WeightTable:
    """`image_encoder.*` relative to it; leaves relative to `ImageEncoder`."""
    rules = [
        WeightRule("pos_embed", "pos_embed", "squeeze"),
        *conv_rules("patch_embed.proj", "patch_embed", "conv"),
        WeightRule("neck.0.weight", "neck.reduce.kernel", "conv1x1"),
        *norm_rules("neck.1", "neck.norm1"),
        WeightRule("neck.2.weight", "neck.mix.kernel", "conv"),
        *norm_rules("neck.3", "neck.norm2"),
    ]
    if config.window_blocks:
        rules += _block_rules("window_blocks", config.window_blocks)
    if config.global_blocks:
        rules += _block_rules("global_blocks", config.global_blocks)
    return WeightTable(tuple(rules))


def prompt_encoder_table() -> WeightTable:
    """`prompt_encoder.*` relative to it; leaves relative to `PromptEncoder`."""
    points = tuple(range(4))
    return WeightTable(
        (
            WeightRule("pe_layer.positional_encoding_gaussian_matrix", "frequencies"),
            WeightRule("point_embeddings.{layer}.weight", "point_embeddings", "squeeze", points),
            WeightRule("not_a_point_embed.weight", "not_a_point", "squeeze"),
            WeightRule("no_mask_embed.weight", "no_mask", "squeeze"),
            *conv_rules("mask_downscaling.0", "mask_embedding.conv1", "conv"),
            *norm_rules("mask_downscaling.1", "mask_embedding.norm1"),
            *conv_rules("mask_downscaling.3", "mask_embedding.conv2", "conv"),
            *norm_rules("mask_downscaling.4", "mask_embedding.norm2"),
            *conv_rules("mask_downscaling.6", "mask_embedding.conv3", "conv1x1"),
        )
    )


def _attention_rules(tensor: str, leaf: str, layers: tuple[int, ...] = ()) -> list[WeightRule]:
    names = ("q_proj", "k_proj", "v_proj", "out_proj")
    rules: list[WeightRule] = []
    for name in names:
        rules += linear_rules(f"{tensor}.{name}", f"{leaf}.{name}", layers)
    return rules


def _two_way_rules(layers: tuple[int, ...]) -> list[WeightRule]:
    tensor, leaf = "layers.{layer}", "layers.{layer}"
    rules = [
        *_attention_rules(f"{tensor}.self_attn", f"{leaf}.self_attention", layers),
        *_attention_rules(f"{tensor}.cross_attn_token_to_image", f"{leaf}.token_to_image", layers),
        *_attention_rules(f"{tensor}.cross_attn_image_to_token", f"{leaf}.image_to_token", layers),
        *linear_rules(f"{tensor}.mlp.lin1", f"{leaf}.mlp.up", layers),
        *linear_rules(f"{tensor}.mlp.lin2", f"{leaf}.mlp.down", layers),
    ]
    for norm in ("norm1", "norm2", "norm3", "norm4"):
        rules += norm_rules(f"{tensor}.{norm}", f"{leaf}.{norm}", layers)
    return rules


def mask_decoder_table(config: SAMConfig) -> WeightTable:
    """`mask_decoder.*` relative to it; leaves relative to `MaskDecoder`."""
    transformer = WeightTable(
        (
            *_two_way_rules(tuple(range(config.decoder_layers))),
            *_attention_rules("final_attn_token_to_image", "final_attention"),
            *norm_rules("norm_final_attn", "final_norm"),
        )
    )
    rules = [
        WeightRule("iou_token.weight", "iou_token"),
        WeightRule("mask_tokens.weight", "mask_tokens"),
        *conv_rules("output_upscaling.0", "upscaling.conv1", "conv_transposed"),
        *norm_rules("output_upscaling.1", "upscaling.norm"),
        *conv_rules("output_upscaling.3", "upscaling.conv2", "conv_transposed"),
    ]
    tokens = tuple(range(config.num_multimasks + 1))
    for i in range(config.hypernetwork_layers):
        tensor = f"output_hypernetworks_mlps.{{layer}}.layers.{i}"
        rules += linear_rules(tensor, f"hypernetworks.layers.{i}", tokens)
    for i in range(config.iou_layers):
        rules += linear_rules(f"iou_prediction_head.layers.{i}", f"iou_head.layers.{i}")
    return WeightTable(tuple(rules)) + transformer.with_prefix("transformer.", "transformer.")


def _plane(levels: RGB) -> np.ndarray:
    """Statistics of the three channels as the original's buffers hold them."""
    return np.asarray(levels, np.float32).reshape(3, 1, 1)


def sam_table(config: SAMConfig) -> WeightTable:
    """Every tensor of a Segment Anything checkpoint; leaves relative to `SAM`."""
    mean, std = (lambda: _plane(config.pixel_mean)), (lambda: _plane(config.pixel_std))
    constant = "the preprocessing's constant, rarely saved"
    return (
        image_encoder_table(config).with_prefix("image_encoder.", "encoder.")
        + prompt_encoder_table().with_prefix("prompt_encoder.", "prompt_encoder.")
        + mask_decoder_table(config).with_prefix("mask_decoder.", "mask_decoder.")
        + WeightTable(
            (),
            (
                UnmappedTensor("pixel_mean", "recomputed", constant, compute=mean),
                UnmappedTensor("pixel_std", "recomputed", constant, compute=std),
            ),
        )
    )
