"""What a checkpoint is, and its configuration: from names, shapes and its config.json.

Shapes tell nearly everything; what they cannot tell (numbers of heads, an activation) comes from
the checkpoint's config.json, or is the released model's. Nothing is guessed in silence: a folder of
another architecture raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glamm_jax.config import (
    CLIP_H14_224,
    PROJECTIONS,
    CLIPConfig,
    GLaMMConfig,
    LlamaConfig,
    LoRAConfig,
    RegionConfig,
    SAMConfig,
    TokenConfig,
)
from glamm_jax.weights.glamm import CLIP_PREFIX, REGION_PREFIX, SAM_PREFIX
from glamm_jax.weights.rules import Shapes, WeightsError

Family = str  # glamm, llama, clip, sam, adapter or gpt4roi
HFConfig = Mapping[str, Any]

# What only this family holds; the first match decides, since GLaMM holds the others' names, too.
_SIGNS: tuple[tuple[Family, str], ...] = (
    ("glamm", "model.grounding_encoder."),
    ("gpt4roi", "model.spi_module."),
    ("adapter", "base_model.model."),
    ("llama", "model.layers.0.self_attn.q_proj.weight"),
    ("clip", "vision_model.embeddings."),
    ("sam", "image_encoder.patch_embed."),
)
LORA_NAME = re.compile(r"\.(\w+)\.lora_([AB])(?:\.default)?\.weight$")


def family_of(tensors: Shapes, source_name: str) -> Family:
    """Which kind of checkpoint holds these tensors.

    Raises: WeightsError naming `what` when it is none of ours.
    """
    for family, sign in _SIGNS:
        if any(name.startswith(sign) for name in tensors):
            return family
    example = ", ".join(sorted(tensors)[:3]) or "no tensors"
    raise WeightsError(
        f"{source_name}: no GLaMM, LLaMA, CLIP, SAM, peft or GPT4RoI checkpoint; it holds {example} ..."
    )


def clip_config(tensors: Shapes, hf_config: HFConfig, layer: int = -2) -> CLIPConfig:
    """CLIP's vision model from tensors below `vision_model.` and its config.json.

    Args:
        layer: the hidden state that the projector reads; the region encoder reads every third
            down from it (trap 9).
    """
    vision = hf_config.get("vision_config", hf_config)
    look = _Look(tensors, vision, "vision_model.")
    default = CLIPConfig()
    kernel = "embeddings.patch_embedding.weight"
    width = look.size("hidden_size", kernel, 0, default.hidden_dim)
    patch = look.size("patch_size", kernel, -1, default.patch_size)
    positions = look.shape("embeddings.position_embedding.weight", (default.num_patches + 1, width))
    is_huge = width == CLIP_H14_224.hidden_dim
    like = CLIP_H14_224 if is_huge else default
    return replace(
        like,
        image_size=vision.get("image_size", math.isqrt(positions[0] - 1) * patch),
        patch_size=patch,
        hidden_dim=width,
        mlp_dim=look.size("intermediate_size", "encoder.layers.0.mlp.fc1.weight", 0, like.mlp_dim),
        num_layers=look.layers("num_hidden_layers", "encoder.layers.", like.num_layers),
        num_heads=vision.get("num_attention_heads", 16 if is_huge else width // 64),
        activation=vision.get("hidden_act", like.activation),
        norm_eps=vision.get("layer_norm_eps", like.norm_eps),
        projector_layer=layer,
        region_layers=(layer - 9, layer - 6, layer - 3, layer),
    )


def llama_config(tensors: Shapes, hf_config: HFConfig, source_name: str = "config.json") -> LlamaConfig:
    """The decoder from its tensors and config.json.

    Raises: WeightsError naming `what` where the original's decoder is not what it describes.
    """
    look, default = _Look(tensors, hf_config, "model."), LlamaConfig()
    table, gate = "embed_tokens.weight", "layers.0.mlp.gate_proj.weight"
    width = look.size("hidden_size", table, 1, default.hidden_dim)
    half = look.shape("layers.0.self_attn.rotary_emb.inv_freq", (default.head_dim // 2,))[0]
    heads = hf_config.get("num_attention_heads", width // (2 * half))
    _agree(
        hf_config,
        source_name,
        num_key_value_heads=heads,
        rope_scaling=None,
        hidden_act="silu",
        tie_word_embeddings=False,
        attention_bias=False,
    )
    return LlamaConfig(
        vocab_size=look.size("vocab_size", table, 0, default.vocab_size),
        hidden_dim=width,
        mlp_dim=look.size("intermediate_size", gate, 0, default.mlp_dim),
        num_layers=look.layers("num_hidden_layers", "layers.", default.num_layers),
        num_heads=heads,
        max_positions=hf_config.get("max_position_embeddings", default.max_positions),
        rope_theta=float(hf_config.get("rope_theta", default.rope_theta)),
        norm_eps=hf_config.get("rms_norm_eps", default.norm_eps),
    )


def sam_config(tensors: Shapes) -> SAMConfig:
    """Segment Anything of any size, from its tensors alone.

    Raises: WeightsError when its windows differ in size, which our stacks cannot hold.
    """
    encoder, decoder = _Look(tensors, {}, "image_encoder."), _Look(tensors, {}, "mask_decoder.")
    default = SAMConfig()
    _, grid, _, width = encoder.shape("pos_embed", (1, 64, 64, default.hidden_dim))
    patch = encoder.shape("patch_embed.proj.weight", (width, 3, 16, 16))[-1]
    layers = encoder.layers("", "blocks.", default.num_layers)
    tables = [
        encoder.shape(f"blocks.{i}.attn.rel_pos_h", (2 * default.window_size - 1, 80))
        for i in range(layers)
    ]
    global_blocks = tuple(i for i, table in enumerate(tables) if table[0] == 2 * grid - 1)
    windows = {(t[0] + 1) // 2 for i, t in enumerate(tables) if i not in global_blocks}
    if len(windows) > 1:
        raise WeightsError(f"SAM: blocks with windows of several sizes: {sorted(windows)}")
    masks, out_dim = decoder.shape("mask_tokens.weight", (4, default.out_dim))
    prompt = _Look(tensors, {}, "prompt_encoder.")
    mlp = encoder.shape("blocks.0.mlp.lin1.weight", (4 * width, width))[0]
    two_way, head = "transformer.layers.0.mlp.lin1.weight", "iou_prediction_head.layers.0.weight"
    return SAMConfig(
        image_size=grid * patch,
        patch_size=patch,
        hidden_dim=width,
        num_layers=layers,
        num_heads=width // tables[0][1],
        mlp_ratio=mlp / width,
        window_size=windows.pop() if windows else default.window_size,
        global_blocks=global_blocks,
        out_dim=out_dim,
        mask_channels=prompt.shape("mask_downscaling.3.weight", (default.mask_channels,))[0],
        decoder_layers=decoder.layers("", "transformer.layers.", default.decoder_layers),
        decoder_mlp_dim=decoder.shape(two_way, (default.decoder_mlp_dim,))[0],
        num_multimasks=masks - 1,
        iou_dim=decoder.shape(head, (default.iou_dim,))[0],
        iou_layers=decoder.layers("", "iou_prediction_head.layers.", default.iou_layers),
    )


def region_config(tensors: Shapes) -> RegionConfig:
    """The region encoder from tensors below `model.region_encoder.`"""
    look, default = _Look(tensors, {}, "roi_align."), RegionConfig()
    area = default.roi_size**2
    flat = look.shape("flatten_linear.weight", (default.mid_dim, default.mid_dim * area))
    width = look.shape("pconvs.0.weight", (flat[1] // area,))[0]
    fusion = _Look(tensors, {}, "mlvl_fuse.")
    return RegionConfig(
        mid_dim=flat[0],
        position_dim=look.shape("pos_embedd.0.weight", (default.position_dim,))[0],
        num_fusion_rounds=fusion.layers("", "fuse_convs.", default.num_fusion_rounds),
        roi_size=math.isqrt(flat[1] // width),
    )


def lora_config(tensors: Shapes, hf_config: HFConfig) -> LoRAConfig | None:
    """Adapters among these tensors, or None; alpha and dropout as peft's config.json says.

    Raises: WeightsError when their ranks differ or they sit beside other layers than the decoder's.
    """
    found = [(LORA_NAME.search(name), shape) for name, shape in tensors.items()]
    ranks = {shape[0] for match, shape in found if match and match[2] == "A"}
    names = {match[1] for match, _ in found if match}
    if not names:
        return None
    if len(ranks) != 1 or not names <= set(PROJECTIONS):
        raise WeightsError(f"LoRA of ranks {sorted(ranks)} on {', '.join(sorted(names))}")
    default = LoRAConfig()
    return LoRAConfig(
        rank=ranks.pop(),
        alpha=float(hf_config.get("lora_alpha", default.alpha)),
        dropout=float(hf_config.get("lora_dropout", default.dropout)),
        targets=tuple(name for name in PROJECTIONS if name in names),
    )


def glamm_config(
    tensors: Shapes,
    hf_config: HFConfig,
    vision_hf_config: HFConfig,
    *,
    tokens: TokenConfig | None = None,
    adapter_config: HFConfig | None = None,
    source_name: str = "config.json",
) -> GLaMMConfig:
    """The whole model from the names below `model.`, CLIP's included.

    Args:
        described, clip_described, adapter: the config.json of the GLaMM folder, of the CLIP folder
            and of peft, as far as there are any.
        tokens: the tokenizer's ids; the released layout behind the vocabulary unless given.
        what: where `described` comes from, for an error.
    """
    clip, sam, region = (
        {name.removeprefix(prefix): shape for name, shape in tensors.items() if prefix in name}
        for prefix in (CLIP_PREFIX, SAM_PREFIX, REGION_PREFIX)
    )
    llama = llama_config(tensors, hf_config, source_name)
    layer = hf_config.get("mm_vision_select_layer", -2)
    return GLaMMConfig(
        clip=clip_config(clip, vision_hf_config, layer),
        llama=llama,
        region=region_config(region),
        sam=sam_config(sam),
        lora=lora_config(tensors, adapter_config or {}),
        tokens=tokens or TokenConfig.appended_to(llama.vocab_size - 7),
    )


class _Look:
    """Sizes of an architecture: config.json tells first, then shapes, then the released model.

    So a tensor that is missing or misshapen is found by the table's check, with all others.
    """

    def __init__(self, tensors: Shapes, described: HFConfig, prefix: str):
        self._tensors, self._described, self._prefix = tensors, described, prefix

    def shape(self, tensor: str, default: tuple[int, ...]) -> tuple[int, ...]:
        found = tuple(self._tensors.get(self._prefix + tensor, default))
        return found if len(found) >= len(default) and 0 not in found else default

    def size(self, key: str, tensor: str, axis: int, default: int) -> int:
        shape = self._tensors.get(self._prefix + tensor, ())
        return self._described.get(key) or (shape[axis] if len(shape) > 1 else default)

    def layers(self, key: str, parent: str, default: int) -> int:
        number = re.compile(re.escape(self._prefix + parent) + r"(\d+)\.")
        found = [int(match[1]) for name in self._tensors if (match := number.match(name))]
        return self._described.get(key) or 1 + max(found, default=default - 1)


def _agree(described: HFConfig, what: str, **wanted: Any) -> None:
    """Refuse a decoder that computes something else than LLaMA of the first generation."""
    wrong = [
        f"{key} = {described[key]!r}, not {value!r}"
        for key, value in wanted.items()
        if described.get(key, value) not in (value, None)
    ]
    if wrong:
        raise WeightsError(f"{what} describes another architecture: {'; '.join(wrong)}")
