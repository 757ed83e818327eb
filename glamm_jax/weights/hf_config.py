"""Writing config.json for the original's `from_pretrained`, and peft's adapter_config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig, LoRAConfig, SAMConfig
from glamm_jax.errors import GLaMMError
from glamm_jax.weights.config_file import AnyConfig, config_to_json
from glamm_jax.weights.infer_config import HFConfig, clip_config, glamm_config, sam_config
from glamm_jax.weights.rules import Shapes

# Key of the complete GLaMMConfig, where it cannot be inferred from shapes and the original's keys.
GLAMM_JAX_KEY = "glamm_jax"
CLIP_NAME = "openai/clip-vit-large-patch14-336"


def llama_hf_config(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """Return the config.json of a LlamaForCausalLM.

    Args:
        config: of the decoder.
        dtype: value of `torch_dtype`.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": dtype,
        "use_cache": True,
    } | _newer_keys(config)


def _newer_keys(config: LlamaConfig) -> dict[str, Any]:
    """Return the keys that LLaMA of the first generation lacks; every version reads them."""
    keys: dict[str, Any] = {}
    if config.num_kv_heads is not None:
        keys["num_key_value_heads"] = config.num_kv_heads
    if config.head_width is not None:
        keys["head_dim"] = config.head_width
    scaling = config.rope_scaling
    if scaling is not None:
        # The first versions with scaling read "type", later ones "rope_type".
        keys["rope_scaling"] = {"factor": scaling.factor, "rope_type": scaling.kind}
        if scaling.kind == "linear":
            keys["rope_scaling"]["type"] = scaling.kind
        else:
            keys["rope_scaling"] |= {
                "low_freq_factor": scaling.low_freq_factor,
                "high_freq_factor": scaling.high_freq_factor,
                "original_max_position_embeddings": scaling.original_max_positions,
            }
    return keys


def glamm_hf_config(config: GLaMMConfig, dtype: str, clip_name: str = CLIP_NAME) -> dict[str, Any]:
    """Return the config.json of a GLaMMForCausalLM: every key that the original reads.

    Args:
        config: of the model.
        dtype: value of `torch_dtype`.
        clip_name: name of the CLIP checkpoint on the Hugging Face hub.
    """
    # quirk 25: bbox_token_idx of config.json takes precedence over from_pretrained's argument.
    # quirk 26: the original reads num_level_reg_features, but its constructor sets only
    # num_reg_features. It reads mm_use_im_start_end, but sets mm_use_image_start_end.
    return llama_hf_config(config.llama, dtype) | {
        "architectures": ["GLaMMForCausalLM"],
        "model_type": "llava",
        "use_cache": False,
        "bos_token_id": config.tokens.bos,
        "eos_token_id": config.tokens.eos,
        "pad_token_id": config.tokens.pad,
        "bbox_token_idx": config.tokens.region,
        "num_level_reg_features": len(config.clip.region_layers),
        "num_reg_features": len(config.clip.region_layers),
        "with_region": True,
        "mm_use_im_start_end": True,
        "mm_use_image_start_end": True,
        "mm_vision_tower": clip_name,
        "vision_tower": clip_name,
        "mm_vision_module": clip_name,
        "vision_module": clip_name,
        "mm_hidden_size": config.clip.hidden_dim,
        "mm_vision_select_layer": config.clip.projector_layer,
        "mm_vision_select_feature": "patch",
        "select_feature_type": "patch",
        "use_mm_proj": True,
        "image_aspect": "square",
        "image_grid_points": None,
        "pretrain_mm_mlp_adapter": None,
        "tune_mlp_adapter": False,
        "freeze_mlp_adapter": True,
        "use_image_patch_token": False,
        "train_mask_decoder": True,
        "out_dim": config.sam.out_dim,
    }


def with_glamm_jax_config(
    hf_config: HFConfig, config: GLaMMConfig, tensors: Shapes, vision_hf_config: HFConfig
) -> dict[str, Any]:
    """Add the complete configuration to a config.json unless it can be inferred without.

    Args:
        hf_config: config.json of the GLaMM folder.
        config: of the model.
        tensors: names and shapes of all tensors, CLIP's included.
        vision_hf_config: config.json of the CLIP folder.
    """
    return _with_own_config(
        hf_config,
        config,
        lambda plain: glamm_config(tensors, plain, vision_hf_config, tokens=config.tokens),
    )


def component_hf_config(
    hf_config: HFConfig, config: CLIPConfig | SAMConfig, tensors: Shapes
) -> dict[str, Any]:
    """Add the configuration of CLIP or SAM alone to its config.json, unless it can be inferred.

    Args:
        hf_config: config.json of the component; empty: there is none.
        config: of the component.
        tensors: names and shapes of all its tensors.
    """
    if isinstance(config, SAMConfig):
        return _with_own_config(hf_config, config, lambda _: sam_config(tensors))
    return _with_own_config(
        hf_config, config, lambda plain: clip_config(tensors, plain, is_alone=True)
    )


def _with_own_config(
    hf_config: HFConfig, config: AnyConfig, infer: Callable[[HFConfig], AnyConfig]
) -> dict[str, Any]:
    """Add a configuration to a config.json, unless `infer` gets it from the other keys."""
    plain = {key: value for key, value in hf_config.items() if key != GLAMM_JAX_KEY}
    try:
        inferred = infer(plain)
    except GLaMMError:  # a small CLIP, for example, lacks the layers that the original reads
        inferred = None
    return plain if inferred == config else plain | {GLAMM_JAX_KEY: config_to_json(config)}


def clip_hf_config(config: CLIPConfig) -> dict[str, Any]:
    """Return the config.json of a CLIPVisionModel."""
    return {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_size": config.hidden_dim,
        "intermediate_size": config.mlp_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "hidden_act": config.activation,
        "layer_norm_eps": config.norm_eps,
        "num_channels": 3,
    }


def adapter_hf_config(config: LoRAConfig, modules: list[str], base: str) -> dict[str, Any]:
    """Return peft's adapter_config.json.

    Args:
        config: of the adapters.
        modules: full paths of the adapted modules, since CLIP and SAM have a q_proj, too.
        base: name or path of the model without adapters.
    """
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": config.rank,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": modules,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
