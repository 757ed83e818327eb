"""config.json as the original's `from_pretrained` wants it, and peft's adapter_config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from glamm_jax.config import CLIPConfig, GLaMMConfig, LlamaConfig, LoRAConfig
from glamm_jax.weights.infer_config import glamm_config
from glamm_jax.weights.rules import Shapes

Described = Mapping[str, Any]
# Our whole configuration, where shapes and the original's keys do not tell it.
GLAMM_JAX_KEY = "glamm_jax"
CLIP_NAME = "openai/clip-vit-large-patch14-336"


def llama_hf_config(config: LlamaConfig, dtype: str) -> dict[str, Any]:
    """A LlamaForCausalLM's config.json."""
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
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": dtype,
        "use_cache": True,
    }


def glamm_hf_config(config: GLaMMConfig, dtype: str, clip_name: str = CLIP_NAME) -> dict[str, Any]:
    """A GLaMMForCausalLM's config.json: every key that the original reads of it.

    `num_level_reg_features` is read, but only `num_reg_features` is ever set by the original's
    constructor (trap 26); `bbox_token_idx` here wins over an argument of from_pretrained (trap 25).
    """
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
    described: Described, config: GLaMMConfig, tensors: Shapes, clip_described: Described
) -> dict[str, Any]:
    """The same config.json, and our configuration in it if it could not be told otherwise."""
    told = glamm_config(tensors, described, clip_described, tokens=config.tokens)
    plain = {key: value for key, value in described.items() if key != GLAMM_JAX_KEY}
    return plain if told == config else plain | {GLAMM_JAX_KEY: asdict(config)}


def clip_hf_config(config: CLIPConfig) -> dict[str, Any]:
    """A CLIPVisionModel's config.json."""
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
    """peft's adapter_config.json; whole module paths, since CLIP and SAM have a q_proj, too."""
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
