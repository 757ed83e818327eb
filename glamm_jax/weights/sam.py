"""Weight tables of Segment Anything under the original's names."""

from __future__ import annotations

import numpy as np

from glamm_jax.config import RGB, SAMConfig
from glamm_jax.weights.rules import UnmappedTensor, WeightRule, WeightTable


def linear_rules(tensor: str, leaf: str, layers: tuple[int, ...] = ()) -> tuple[WeightRule, ...]:
    """Return the rules of a dense layer's weight and bias.

    Args:
        tensor: prefix of the torch names.
        leaf: prefix of the leaf paths.
        layers: as in `WeightRule`.
    """
    return (
        WeightRule(f"{tensor}.weight", f"{leaf}.kernel", "linear", layers),
        WeightRule(f"{tensor}.bias", f"{leaf}.bias", "same", layers),
    )


def norm_rules(tensor: str, leaf: str, layers: tuple[int, ...] = ()) -> tuple[WeightRule, ...]:
    """Return the rules of a normalization's scale and bias.

    Args:
        tensor: prefix of the torch names.
        leaf: prefix of the leaf paths.
        layers: as in `WeightRule`.
    """
    return (
        WeightRule(f"{tensor}.weight", f"{leaf}.scale", "same", layers),
        WeightRule(f"{tensor}.bias", f"{leaf}.bias", "same", layers),
    )


def conv_rules(tensor: str, leaf: str, transform: str) -> tuple[WeightRule, ...]:
    """Return the rules of a convolution's kernel and bias.

    Args:
        tensor: prefix of the torch names.
        leaf: prefix of the leaf paths.
        transform: of the kernel; a key of TRANSFORMS.
    """
    return (
        WeightRule(f"{tensor}.weight", f"{leaf}.kernel", transform),
        WeightRule(f"{tensor}.bias", f"{leaf}.bias"),
    )


def _block_rules(stack: str, layers: tuple[int, ...]) -> tuple[WeightRule, ...]:
    """Return the rules of the ViT blocks `layers`, which are one stack."""
    block = "blocks.{layer}"
    relative_positions = [
        WeightRule(f"{block}.attn.{name}", f"{stack}.attention.{name}", "same", layers)
        for name in ("rel_pos_h", "rel_pos_w")
    ]
    return (
        *norm_rules(f"{block}.norm1", f"{stack}.norm1", layers),
        *linear_rules(f"{block}.attn.qkv", f"{stack}.attention.qkv", layers),
        *linear_rules(f"{block}.attn.proj", f"{stack}.attention.proj", layers),
        *relative_positions,
        *norm_rules(f"{block}.norm2", f"{stack}.norm2", layers),
        *linear_rules(f"{block}.mlp.lin1", f"{stack}.mlp.up", layers),
        *linear_rules(f"{block}.mlp.lin2", f"{stack}.mlp.down", layers),
    )


def image_encoder_table(config: SAMConfig) -> WeightTable:
    """Return the table of the image encoder, relative to `image_encoder.`"""
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
    """Return the table of the prompt encoder, relative to `prompt_encoder.`"""
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
    rules: list[WeightRule] = []
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        rules += linear_rules(f"{tensor}.{name}", f"{leaf}.{name}", layers)
    return rules


def _two_way_rules(layers: tuple[int, ...]) -> list[WeightRule]:
    layer = "layers.{layer}"
    rules = [
        *_attention_rules(f"{layer}.self_attn", f"{layer}.self_attention", layers),
        *_attention_rules(f"{layer}.cross_attn_token_to_image", f"{layer}.token_to_image", layers),
        *_attention_rules(f"{layer}.cross_attn_image_to_token", f"{layer}.image_to_token", layers),
        *linear_rules(f"{layer}.mlp.lin1", f"{layer}.mlp.up", layers),
        *linear_rules(f"{layer}.mlp.lin2", f"{layer}.mlp.down", layers),
    ]
    for norm in ("norm1", "norm2", "norm3", "norm4"):
        rules += norm_rules(f"{layer}.{norm}", f"{layer}.{norm}", layers)
    return rules


def mask_decoder_table(config: SAMConfig) -> WeightTable:
    """Return the table of the mask decoder, relative to `mask_decoder.`"""
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


def _pixel_buffer(values: RGB) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(3, 1, 1)


def sam_table(config: SAMConfig) -> WeightTable:
    """Return the table of a Segment Anything checkpoint."""
    mean = lambda: _pixel_buffer(config.pixel_mean)  # noqa: E731
    std = lambda: _pixel_buffer(config.pixel_std)  # noqa: E731
    reason = "constant of the preprocessing"
    return (
        image_encoder_table(config).with_prefix("image_encoder.", "encoder.")
        + prompt_encoder_table().with_prefix("prompt_encoder.", "prompt_encoder.")
        + mask_decoder_table(config).with_prefix("mask_decoder.", "mask_decoder.")
        + WeightTable(
            (),
            (
                UnmappedTensor("pixel_mean", "recomputed", reason, compute=mean),
                UnmappedTensor("pixel_std", "recomputed", reason, compute=std),
            ),
        )
    )
