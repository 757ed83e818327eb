"""Family and configuration are inferred from shapes and config.json."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glamm_jax.config import (
    CLIP_H14_224,
    CLIP_L14_336,
    LLAMA_7B,
    SAM_VIT_B,
    SAM_VIT_H,
    SAM_VIT_L,
    LoRAConfig,
    RopeScaling,
    released,
)
from glamm_jax.errors import GLaMMWarning
from glamm_jax.json_files import JSONError
from glamm_jax.weights.infer_config import (
    clip_config,
    family_of,
    glamm_config,
    llama_config,
    lora_config,
    sam_config,
)
from glamm_jax.weights.rules import WeightsError
from tests.weights.checkpoints import CONFIG, all_shapes


def recorded(goldens: Path, name: str) -> dict:
    path = goldens / "manifest" / f"{name}.json"
    tensors = json.loads(path.read_text(encoding="utf-8"))["tensors"]
    return {tensor: tuple(shape) for tensor, (shape, _) in tensors.items()}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("glamm_7b_saved_hf", "glamm"),
        ("glamm_7b_training_lora", "glamm"),
        ("llama_7b_hf", "llama"),
        ("clip_vit_l14_336_hf", "clip"),
        ("sam_vit_b", "sam"),
        ("lora_adapter_peft", "adapter"),
    ],
)
def test_a_checkpoint_is_recognised_by_its_names(goldens, name, family):
    assert family_of(recorded(goldens, name), name) == family


def test_an_unknown_checkpoint_is_refused_by_name():
    with pytest.raises(WeightsError, match="resnet: not a checkpoint of GLaMM, LLaMA"):
        family_of({"fc.weight": (1, 2)}, "resnet")


def test_the_released_model_is_inferred_from_its_shapes(goldens):
    assert glamm_config(recorded(goldens, "glamm_7b_full_with_vision_tower"), {}, {}) == released()


@pytest.mark.parametrize(
    ("name", "config"),
    [("sam_vit_b", SAM_VIT_B), ("sam_vit_l", SAM_VIT_L), ("sam_vit_h", SAM_VIT_H)],
)
def test_sam_of_any_size_needs_no_config(goldens, name, config):
    assert sam_config(recorded(goldens, name)) == config


@pytest.mark.parametrize(
    ("name", "config"),
    [("clip_vit_l14_336_hf", CLIP_L14_336), ("clip_vit_h14_laion_hf", CLIP_H14_224)],
)
def test_both_clips_are_inferred_from_their_shapes(goldens, name, config):
    assert clip_config(recorded(goldens, name), {}) == config


def test_llama_with_fewer_rows(goldens):
    config = llama_config(recorded(goldens, "llama_7b_hf"), {})
    assert config.vocab_size == 32000
    assert config.num_heads == LLAMA_7B.num_heads


def test_adapters_are_inferred_from_their_names_and_ranks(goldens):
    tensors = recorded(goldens, "glamm_7b_training_lora")
    assert lora_config(tensors, {}) == LoRAConfig()
    assert lora_config(recorded(goldens, "glamm_7b_saved_hf"), {}) is None
    adapter = lora_config(recorded(goldens, "lora_adapter_peft"), {"lora_alpha": 8})
    assert adapter == LoRAConfig(alpha=8.0)


def test_config_json_takes_precedence_over_a_misshapen_tensor(goldens):
    tensors = recorded(goldens, "llama_7b_hf") | {"model.embed_tokens.weight": (4096, 32000)}
    hf_config = {"hidden_size": 4096, "vocab_size": 32000}
    assert llama_config(tensors, hf_config).hidden_dim == 4096


@pytest.mark.parametrize(
    "hf_config",
    [
        {"rope_scaling": {"factor": 2}},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "longrope"}},
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"partial_rotary_factor": 0.5},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"model_type": "gemma2"},
        {"embedding_multiplier": 12.0},
        {"logits_scaling": 8.0},
        {"final_logit_softcapping": 30.0},
        {"attn_logit_softcapping": 50.0},
        {"num_local_experts": 8},
        {"no_rope_layers": [1, 0]},
        {"mm_vision_select_feature": "cls_patch"},
        {"mm_projector_type": "linear"},
        {"image_aspect": "pad"},
    ],
)
def test_a_key_that_changes_the_computation_is_refused_by_name(goldens, hf_config):
    with pytest.raises(WeightsError, match="another architecture") as error:
        llama_config(recorded(goldens, "llama_7b_hf"), hf_config, "X/config.json")
    assert "X/config.json" in str(error.value)
    assert next(iter(hf_config)) in str(error.value)


@pytest.mark.parametrize(
    ("hf_config", "message"),
    [
        ({"sliding_window": 1024}, "sliding_window = 1024 is below max_position_embeddings = 2048"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layer_types has 'sliding"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantized \(bitsandbytes\)"),
        ({"rope_theta": 5e5, "rope_parameters": {"rope_theta": 1e4}}, "contradictory rope_theta"),
        (
            {
                "rope_scaling": {"type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "default"},
            },
            "contradictory rope_parameters = None, rope_scaling = RopeScaling",
        ),
        ({"num_attention_heads": 7}, "num_heads = 7: must divide hidden_dim"),
    ],
)
def test_a_value_that_is_not_supported_is_refused(goldens, hf_config, message):
    with pytest.raises(WeightsError, match=message):
        llama_config(recorded(goldens, "llama_7b_hf"), hf_config)


@pytest.mark.parametrize(
    ("hf_config", "message"),
    [
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters: no field 'factor'"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "no field 'low_freq_factor'"),
        ({"rope_parameters": [1]}, "is not an object"),
        ({"rope_theta": "1e5"}, "rope_theta = '1e5' is not a number"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers = 1000000000: at most"),
        ({"rms_norm_eps": -1.0}, "rms_norm_eps = -1.0: at least"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1 is not true or false"),
        ({"quantization_config": "none"}, "is not an object"),
        ({"layer_types": "full"}, "is not a list"),
    ],
)
def test_an_impossible_value_is_refused_with_its_field(goldens, hf_config, message):
    with pytest.raises(JSONError, match=message):
        llama_config(recorded(goldens, "llama_7b_hf"), hf_config)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("hf_config", "theta", "scaling"),
    [
        ({}, 1e4, None),
        ({"rope_theta": 1e5}, 1e5, None),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, 1e5, None),
        ({"rope_theta": 1e5, "rope_parameters": {"rope_type": "default"}}, 1e5, None),
        (
            {"rope_theta": 1e5, "rope_parameters": {"rope_theta": 1e5}, "rope_scaling": None},
            1e5,
            None,
        ),
        ({"rope_scaling": {"type": "linear", "factor": 1.0}}, 1e4, None),
        ({"rope_scaling": {"type": "linear", "factor": 4.0}}, 1e4, RopeScaling("linear", 4.0)),
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 4}},
            1e5,
            RopeScaling("linear", 4.0),
        ),
        (
            {
                "rope_theta": 5e5,
                "rope_scaling": LLAMA3
                | {"rope_type": "llama3", "original_max_position_embeddings": 8192},
            },
            5e5,
            RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        ),
    ],
)
def test_rotary_embeddings_are_read_from_every_place(goldens, hf_config, theta, scaling):
    config = llama_config(recorded(goldens, "llama_7b_hf"), hf_config)
    assert (config.rope_theta, config.rope_scaling) == (theta, scaling)


def test_grouped_queries_are_inferred_from_the_keys_or_the_shapes(goldens):
    tensors = recorded(goldens, "llama_7b_hf")
    hf_config = {"num_key_value_heads": 8, "num_attention_heads": 32, "head_dim": 128}
    assert llama_config(tensors, hf_config).num_kv_heads == 8
    assert llama_config(tensors, hf_config).head_width is None
    grouped = tensors | {"model.layers.0.self_attn.k_proj.weight": (1024, 4096)}
    assert llama_config(grouped, {}).num_kv_heads == 8
    assert llama_config(tensors, {}).num_kv_heads is None
    assert llama_config(tensors, {"head_dim": 64, "num_attention_heads": 32}).head_width == 64


@pytest.mark.parametrize(
    "hf_config",
    [
        {"sliding_window": 4096},
        {"sliding_window": 64, "use_sliding_window": False},
        {"pretraining_tp": 2, "attention_dropout": 0.1, "hidden_act": "silu", "mlp_bias": None},
        {"quantization_config": {"quant_method": "gguf", "gguf_file": "model.Q4_1.gguf"}},
    ],
)
def test_inert_keys_change_nothing(goldens, hf_config):
    tensors = recorded(goldens, "llama_7b_hf")
    assert llama_config(tensors, hf_config) == llama_config(tensors, {})


def test_an_unknown_key_gives_a_warning_that_names_it(goldens):
    with pytest.warns(GLaMMWarning, match=r"unknown keys, which are ignored: new_scale = 3\."):
        llama_config(recorded(goldens, "llama_7b_hf"), {"new_scale": 3, "another": None})


def test_what_transformers_writes_is_known_and_inert(goldens):
    transformers = pytest.importorskip("transformers")
    tensors = recorded(goldens, "llama_7b_hf")
    for cls in (transformers.LlamaConfig, transformers.MistralConfig):
        sizes = {"num_key_value_heads": 32, "intermediate_size": 11008, "rms_norm_eps": 1e-6}
        config = cls(**sizes, max_position_embeddings=2048).to_dict()
        assert llama_config(tensors, config) == llama_config(tensors, {})
    clip = transformers.CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    tensors = recorded(goldens, "clip_vit_l14_336_hf")
    for config in (clip.to_dict(), {"model_type": "clip", "vision_config": clip.to_dict()}):
        assert clip_config(tensors, config) == CLIP_L14_336


@pytest.mark.parametrize(
    "hf_config",
    [
        {"hidden_act": "gelu_pytorch_tanh"},
        {"num_channels": 1},
        {"model_type": "siglip_vision_model"},
        {"vision_config": {"hidden_act": "gelu_new"}},
        {"attention_bias": False},
    ],
)
def test_another_vision_model_is_refused(goldens, hf_config):
    with pytest.raises(WeightsError, match=r"CLIP's config\.json.* describes another architecture"):
        clip_config(recorded(goldens, "clip_vit_l14_336_hf"), hf_config)


def test_a_value_that_transformers_leaves_out_is_its_default():
    tensors = {"vision_model.embeddings.patch_embedding.weight": (96, 3, 14, 14)}
    assert clip_config(tensors, {"vision_config": {"hidden_size": 96}}).num_heads == 12
    huge = {"vision_model.embeddings.patch_embedding.weight": (1280, 3, 14, 14)}
    stated = {"vision_config": {"hidden_size": 1280, "num_attention_heads": 16}}
    assert clip_config(huge, stated).activation == "quick_gelu"


def test_a_missing_tensor_leaves_the_rest_inferred():
    tensors = all_shapes(CONFIG)
    del tensors["lm_head.weight"]
    config = glamm_config(tensors, {}, {}, tokens=CONFIG.tokens)
    assert config.llama.vocab_size == CONFIG.llama.vocab_size
