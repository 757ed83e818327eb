"""Inference of a checkpoint's kind and configuration from tensor names, shapes and config.json.

Shapes determine nearly everything. What they do not determine (number of heads, activation) comes
from the checkpoint's config.json, or else is that of the released model. A checkpoint of another
architecture raises an error.
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
    RopeScaling,
    SAMConfig,
    TokenConfig,
)
from glamm_jax.errors import ConfigError
from glamm_jax.json_files import JSONObject, show
from glamm_jax.weights.glamm import CLIP_PREFIX, REGION_PREFIX, SAM_PREFIX
from glamm_jax.weights.hf_keys import CLIP_KEYS, LLAMA_KEYS, ROPE_KEYS, check_keys
from glamm_jax.weights.rules import Shapes, WeightsError

Family = str  # glamm, llama, clip, sam, adapter or gpt4roi
HFConfig = Mapping[str, Any]  # a config.json of Hugging Face; empty: there is none

# Prefixes of names that only this family has. The first match counts, since a GLaMM checkpoint has
# names of the others, too.
_FAMILY_PREFIXES: tuple[tuple[Family, str], ...] = (
    ("glamm", "model.grounding_encoder."),
    ("gpt4roi", "model.spi_module."),
    ("adapter", "base_model.model."),
    ("llama", "model.layers.0.self_attn.q_proj.weight"),
    ("clip", "vision_model.embeddings."),
    ("sam", "image_encoder.patch_embed."),
)
# Largest plausible values: a damaged file must not make the program allocate without bounds.
_MAX_SIZE, _MAX_LAYERS = 1 << 24, 1 << 12
LORA_NAME = re.compile(r"\.(\w+)\.lora_([AB])(?:\.default)?\.weight$")


def family_of(tensors: Shapes, source_name: str) -> Family:
    """Return the family of the checkpoint that has these tensors.

    Args:
        tensors: names and shapes of all tensors.
        source_name: what the error message calls the checkpoint.

    Raises:
        WeightsError: the family is unknown.
    """
    for family, prefix in _FAMILY_PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            return family
    examples = ", ".join(sorted(tensors)[:3]) or "no tensors"
    raise WeightsError(
        f"{source_name}: not a checkpoint of GLaMM, LLaMA, CLIP, SAM, peft or GPT4RoI; it contains "
        f"{examples} ..."
    )


def clip_config(
    tensors: Shapes, hf_config: HFConfig, projector_layer: int = -2, *, is_alone: bool = False
) -> CLIPConfig:
    """Infer the configuration of CLIP's vision model.

    Args:
        tensors: names and shapes, below `vision_model.`
        hf_config: config.json of CLIP, or of its vision model alone.
        projector_layer: hidden state that the projector reads.
        is_alone: it is no part of a GLaMM, so hidden states that it does not have are left out of
            those that a region encoder would read.

    Raises:
        WeightsError: `hf_config` describes another architecture than CLIP's vision model.
        JSONError: a field of it has an impossible value.
    """
    vision = JSONObject(dict(hf_config), "CLIP's config.json")
    if "vision_config" in vision:
        check_keys(vision, CLIP_KEYS)
        vision = vision.object("vision_config")
    check_keys(vision, CLIP_KEYS)
    _check_quantization(vision)
    reader = _ShapeReader(tensors, vision, "vision_model.")
    default = CLIPConfig()
    kernel = "embeddings.patch_embedding.weight"
    hidden_dim = reader.size("hidden_size", kernel, 0, default.hidden_dim)
    patch_size = reader.size("patch_size", kernel, -1, default.patch_size)
    num_positions = reader.shape(
        "embeddings.position_embedding.weight", (default.num_patches + 1, hidden_dim)
    )[0]
    num_heads = max(1, hidden_dim // 64)
    if hf_config:
        # transformers leaves values out that are the defaults of its CLIPVisionConfig.
        num_heads = 12 if hidden_dim % 12 == 0 else num_heads
    elif hidden_dim == CLIP_H14_224.hidden_dim:
        default, num_heads = CLIP_H14_224, CLIP_H14_224.num_heads
    num_layers = reader.num_layers("num_hidden_layers", "encoder.layers.", default.num_layers)
    # quirk 9: the region encoder reads every third hidden state, counted from the projector's.
    region_layers = tuple(projector_layer - n for n in (9, 6, 3, 0))
    if is_alone:
        region_layers = tuple(n for n in region_layers if -num_layers - 1 <= n <= num_layers)
    return replace(
        default,
        image_size=vision.integer(
            "image_size", math.isqrt(num_positions - 1) * patch_size, 1, _MAX_SIZE
        ),
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        mlp_dim=reader.size(
            "intermediate_size", "encoder.layers.0.mlp.fc1.weight", 0, default.mlp_dim
        ),
        num_layers=num_layers,
        num_heads=vision.integer("num_attention_heads", num_heads, 1, _MAX_SIZE),
        activation=vision.value("hidden_act", default.activation),
        norm_eps=vision.number("layer_norm_eps", default.norm_eps, 0.0, 1.0),
        projector_layer=projector_layer,
        region_layers=region_layers,
    )


def llama_config(
    tensors: Shapes, hf_config: HFConfig, source_name: str = "config.json"
) -> LlamaConfig:
    """Infer the configuration of the decoder.

    Args:
        tensors: names and shapes, below `model.`
        hf_config: config.json of the checkpoint.
        source_name: what the error message calls `hf_config`.

    Raises:
        WeightsError: `hf_config` describes an architecture that is not supported.
        JSONError: a field of it has an impossible value.
    """
    config, default = JSONObject(dict(hf_config), source_name), LlamaConfig()
    check_keys(config, LLAMA_KEYS)
    _check_quantization(config)
    reader = _ShapeReader(tensors, config, "model.")
    embeddings, gate = "embed_tokens.weight", "layers.0.mlp.gate_proj.weight"
    hidden_dim = reader.size("hidden_size", embeddings, 1, default.hidden_dim)
    num_frequencies = reader.shape(
        "layers.0.self_attn.rotary_emb.inv_freq", (default.head_dim // 2,)
    )[0]
    num_heads = max(1, hidden_dim // (2 * num_frequencies))
    num_heads = config.integer("num_attention_heads", num_heads, 1, _MAX_SIZE)
    head_width = config.integer("head_dim", None, 1, _MAX_SIZE)
    if head_width is not None and head_width * num_heads == hidden_dim:
        head_width = None
    kernel = "layers.0.self_attn.k_proj.weight"
    kv_dim = reader.shape(kernel, (hidden_dim, hidden_dim))[0]
    num_kv_heads = kv_dim // (head_width or max(1, hidden_dim // num_heads))
    if not num_kv_heads or num_heads % num_kv_heads:
        num_kv_heads = num_heads  # the comparison with the weight table names the tensor
    num_kv_heads = config.integer("num_key_value_heads", num_kv_heads, 1, _MAX_SIZE)
    max_positions = config.integer("max_position_embeddings", default.max_positions, 1, _MAX_SIZE)
    _check_windows(config, max_positions)
    theta, scaling = _rope(config, default.rope_theta)
    try:
        return LlamaConfig(
            vocab_size=reader.size("vocab_size", embeddings, 0, default.vocab_size),
            hidden_dim=hidden_dim,
            mlp_dim=reader.size("intermediate_size", gate, 0, default.mlp_dim),
            num_layers=reader.num_layers("num_hidden_layers", "layers.", default.num_layers),
            num_heads=num_heads,
            max_positions=max_positions,
            rope_theta=theta,
            norm_eps=config.number("rms_norm_eps", default.norm_eps, 0.0, 1.0),
            num_kv_heads=None if num_kv_heads == num_heads else num_kv_heads,
            head_width=head_width,
            tie_embeddings=config.boolean("tie_word_embeddings", False),
            rope_scaling=scaling,
        )
    except ConfigError as error:
        raise WeightsError(f"{source_name}: {error}") from error


def _check_quantization(config: JSONObject) -> None:
    """Reject quantized weights; those of GGUF files are dequantized before they are saved."""
    quantization = config.object("quantization_config", None)
    if quantization is None:
        return
    method = quantization.text("quant_method", "without a name")
    if method != "gguf":
        raise WeightsError(
            f"{config.place('quantization_config')}: weights that are quantized ({method}) are not "
            "supported; dequantize the model and save it in float16, bfloat16 or float32"
        )


def _check_windows(config: JSONObject, max_positions: int) -> None:
    """Reject attention that is limited to a window shorter than the longest sequence."""
    layer_types = config.array("layer_types", [])
    other = [kind for kind in layer_types if kind != "full_attention"]
    if other:
        raise WeightsError(
            f"{config.place('layer_types')} has {show(other[0])}: only full_attention is supported"
        )
    window = config.integer("sliding_window", None)
    used = config.boolean("use_sliding_window", True)
    if window is not None and used and window < max_positions:
        raise WeightsError(
            f"{config.place('sliding_window')} = {window} is below max_position_embeddings = "
            f"{max_positions}: attention in a window is not supported. If no sequence is longer "
            f"than {window} tokens, set max_position_embeddings to {window}"
        )


def _rope(config: JSONObject, default_theta: float) -> tuple[float, RopeScaling | None]:
    """Read the rotary embeddings: `rope_theta`, `rope_scaling`, and `rope_parameters` of 2025.

    transformers 5 writes everything into `rope_parameters`, older versions write two other keys.

    Returns:
        (base of the frequencies, their scaling).

    Raises:
        WeightsError: the kind is not supported, or two keys contradict each other.
    """
    thetas = {"rope_theta": config.number("rope_theta", None, 1.0)}
    scalings: dict[str, RopeScaling | None] = {}
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.object(name, None)
        if rope is None:
            continue
        check_keys(rope, ROPE_KEYS)
        thetas[f"{name}.rope_theta"] = rope.number("rope_theta", None, 1.0)
        scalings[name] = _rope_scaling(rope)
    for values in ({k: v for k, v in thetas.items() if v is not None}, scalings):
        if len(set(values.values())) > 1:
            raise WeightsError(
                f"{config.where}: contradictory "
                + ", ".join(f"{name} = {value}" for name, value in values.items())
            )
    theta = next((theta for theta in thetas.values() if theta is not None), default_theta)
    return theta, next(iter(scalings.values()), None)


def _rope_scaling(rope: JSONObject) -> RopeScaling | None:
    kind = rope.text("rope_type", None) or rope.text("type", None)
    if kind is None and "factor" not in rope:
        return None
    if kind == "default":
        return None
    if kind == "linear":
        factor = rope.number("factor", minimum=1.0)
        return None if factor == 1.0 else RopeScaling("linear", factor)
    if kind == "llama3":
        try:
            return RopeScaling(
                "llama3",
                factor=rope.number("factor", minimum=1.0),
                low_freq_factor=rope.number("low_freq_factor", minimum=0.0),
                high_freq_factor=rope.number("high_freq_factor", minimum=0.0),
                original_max_positions=rope.integer(
                    "original_max_position_embeddings", minimum=1, maximum=_MAX_SIZE
                ),
            )
        except ConfigError as error:
            raise WeightsError(f"{rope.where}: {error}") from error
    raise WeightsError(
        f"{rope.where} describes another architecture than LLaMA: rope_type = {show(kind)}; "
        "default, linear and llama3 are supported"
    )


def sam_config(tensors: Shapes) -> SAMConfig:
    """Infer the configuration of Segment Anything of any size.

    Args:
        tensors: names and shapes under the original's names.

    Raises:
        WeightsError: the attention windows of the blocks differ in size, which is not supported.
    """
    encoder = _ShapeReader(tensors, None, "image_encoder.")
    decoder = _ShapeReader(tensors, None, "mask_decoder.")
    prompt_encoder = _ShapeReader(tensors, None, "prompt_encoder.")
    default = SAMConfig()
    _, grid_size, _, hidden_dim = encoder.shape("pos_embed", (1, 64, 64, default.hidden_dim))
    patch_size = encoder.shape("patch_embed.proj.weight", (hidden_dim, 3, 16, 16))[-1]
    num_layers = encoder.num_layers("", "blocks.", default.num_layers)
    relative_positions = [
        encoder.shape(f"blocks.{i}.attn.rel_pos_h", (2 * default.window_size - 1, 80))
        for i in range(num_layers)
    ]
    global_blocks = tuple(
        i for i, shape in enumerate(relative_positions) if shape[0] == 2 * grid_size - 1
    )
    window_sizes = {
        (shape[0] + 1) // 2 for i, shape in enumerate(relative_positions) if i not in global_blocks
    }
    if len(window_sizes) > 1:
        raise WeightsError(
            f"SAM with attention windows of several sizes is not supported: {sorted(window_sizes)}"
        )
    num_masks, out_dim = decoder.shape("mask_tokens.weight", (4, default.out_dim))
    mlp_dim = encoder.shape("blocks.0.mlp.lin1.weight", (4 * hidden_dim, hidden_dim))[0]
    two_way, head = "transformer.layers.0.mlp.lin1.weight", "iou_prediction_head.layers.0.weight"
    return SAMConfig(
        image_size=grid_size * patch_size,
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        num_layers=num_layers,
        num_heads=hidden_dim // relative_positions[0][1],
        mlp_ratio=mlp_dim / hidden_dim,
        window_size=window_sizes.pop() if window_sizes else default.window_size,
        global_blocks=global_blocks,
        out_dim=out_dim,
        mask_channels=prompt_encoder.shape("mask_downscaling.3.weight", (default.mask_channels,))[
            0
        ],
        decoder_layers=decoder.num_layers("", "transformer.layers.", default.decoder_layers),
        decoder_mlp_dim=decoder.shape(two_way, (default.decoder_mlp_dim,))[0],
        num_multimasks=num_masks - 1,
        iou_dim=decoder.shape(head, (default.iou_dim,))[0],
        iou_layers=decoder.num_layers("", "iou_prediction_head.layers.", default.iou_layers),
    )


def region_config(tensors: Shapes) -> RegionConfig:
    """Infer the configuration of the region encoder.

    Args:
        tensors: names and shapes, relative to `model.region_encoder.`
    """
    reader, default = _ShapeReader(tensors, None, "roi_align."), RegionConfig()
    fusion = _ShapeReader(tensors, None, "mlvl_fuse.")
    area = default.roi_size**2
    mid_dim, flat_dim = reader.shape(
        "flatten_linear.weight", (default.mid_dim, default.mid_dim * area)
    )[:2]
    channels = reader.shape("pconvs.0.weight", (flat_dim // area,))[0]
    return RegionConfig(
        mid_dim=mid_dim,
        position_dim=reader.shape("pos_embedd.0.weight", (default.position_dim,))[0],
        num_fusion_rounds=fusion.num_layers("", "fuse_convs.", default.num_fusion_rounds),
        roi_size=math.isqrt(flat_dim // channels),
    )


def lora_config(tensors: Shapes, hf_config: HFConfig) -> LoRAConfig | None:
    """Infer the configuration of the adapters; None if there are none.

    Args:
        tensors: names and shapes of the adapters and other tensors.
        hf_config: adapter_config.json of peft, for alpha and dropout.

    Raises:
        WeightsError: the adapters differ in rank, or adapt other layers than the decoder's.
    """
    matches = [
        (match, shape) for name, shape in tensors.items() if (match := LORA_NAME.search(name))
    ]
    ranks = {shape[0] for match, shape in matches if match[2] == "A"}
    targets = {match[1] for match, _ in matches}
    if not targets:
        return None
    if len(ranks) != 1 or not targets <= set(PROJECTIONS):
        raise WeightsError(
            f"LoRA of ranks {sorted(ranks)} on {', '.join(sorted(targets))} is not supported: one "
            f"rank, and only {', '.join(PROJECTIONS)}"
        )
    default = LoRAConfig()
    return LoRAConfig(
        rank=ranks.pop(),
        alpha=float(hf_config.get("lora_alpha", default.alpha)),
        dropout=float(hf_config.get("lora_dropout", default.dropout)),
        targets=tuple(name for name in PROJECTIONS if name in targets),
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
    """Infer the configuration of the complete model.

    Args:
        tensors: names and shapes under GLaMM's names, CLIP's included.
        hf_config: config.json of the GLaMM folder.
        vision_hf_config: config.json of the CLIP folder.
        tokens: ids of the added tokens; None: the released order at the end of the vocabulary.
        adapter_config: adapter_config.json of peft.
        source_name: what an error message calls `hf_config`.
    """
    clip, sam, region = (
        {name.removeprefix(prefix): shape for name, shape in tensors.items() if prefix in name}
        for prefix in (CLIP_PREFIX, SAM_PREFIX, REGION_PREFIX)
    )
    llama = llama_config(tensors, hf_config, source_name)
    projector_layer = JSONObject(dict(hf_config), source_name).integer("mm_vision_select_layer", -2)
    return GLaMMConfig(
        clip=clip_config(clip, vision_hf_config, projector_layer),
        llama=llama,
        region=region_config(region),
        sam=sam_config(sam),
        lora=lora_config(tensors, adapter_config or {}),
        tokens=tokens or TokenConfig.appended_to(llama.vocab_size - 7),
    )


class _ShapeReader:
    """Sizes of an architecture: from config.json, else from shapes, else of the released model.

    With these defaults a missing or misshapen tensor does not stop the inference: comparing the
    checkpoint with the weight table reports it together with all other problems.
    """

    def __init__(self, tensors: Shapes, hf_config: JSONObject | None, prefix: str):
        self._tensors, self._prefix = tensors, prefix
        self._hf_config = hf_config or JSONObject({}, "")

    def shape(self, tensor: str, default: tuple[int, ...]) -> tuple[int, ...]:
        shape = tuple(self._tensors.get(self._prefix + tensor, default))
        return shape if len(shape) >= len(default) and 0 not in shape else default

    def size(self, key: str, tensor: str, axis: int, default: int) -> int:
        """Return the size of an axis; `key` is its name in config.json."""
        shape = self._tensors.get(self._prefix + tensor, ())
        size = self._hf_config.integer(key, None, 1, _MAX_SIZE)
        return size or (shape[axis] if len(shape) > 1 else default)

    def num_layers(self, key: str, parent: str, default: int) -> int:
        """Return the number of layers below `parent`; `key` is its name in config.json."""
        pattern = re.compile(re.escape(self._prefix + parent) + r"(\d+)\.")
        layers = [int(match[1]) for name in self._tensors if (match := pattern.match(name))]
        number = self._hf_config.integer(key, None, 1, _MAX_LAYERS)
        return number or 1 + max(layers, default=default - 1)
