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
    released,
)
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
    [{"num_key_value_heads": 8, "num_attention_heads": 32}, {"rope_scaling": {"factor": 2}}],
)
def test_a_decoder_of_another_architecture_is_refused(goldens, hf_config):
    with pytest.raises(WeightsError, match="another architecture"):
        llama_config(recorded(goldens, "llama_7b_hf"), hf_config)


def test_a_missing_tensor_leaves_the_rest_inferred():
    tensors = all_shapes(CONFIG)
    del tensors["lm_head.weight"]
    config = glamm_config(tensors, {}, {}, tokens=CONFIG.tokens)
    assert config.llama.vocab_size == CONFIG.llama.vocab_size
