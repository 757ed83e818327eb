"""The wrappers of trainings disappear from the names of tensors."""

from __future__ import annotations

import pytest

from glamm_jax.weights.module_names import canonical_names
from glamm_jax.weights.rules import WeightsError

MODEL = ("model.layers.0.self_attn.q_proj.weight", "model.embed_tokens.weight", "lm_head.weight")
SAM = "model.grounding_encoder.image_encoder.patch_embed.proj.weight"


def new_names(*names: str) -> list[str | None]:
    return list(canonical_names(names, "checkpoint").names.values())


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "module.module.",
        "_orig_mod.",
        "module._orig_mod.",
        "_orig_mod.module.",
        "_fsdp_wrapped_module.",
        "_forward_module.",
        "base_model.model.",
        "module.base_model.model.",
        "model.",
        "_forward_module.model.",
    ],
)
@pytest.mark.parametrize(
    "names", [MODEL, (*MODEL, SAM), ("vision_model.embeddings.class_embedding",)]
)
def test_what_precedes_a_complete_model_is_removed(prefix, names):
    assert new_names(*(prefix + name for name in names)) == list(names)


def test_wrappers_of_inner_modules_are_removed():
    wrapped = (
        "model.layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.self_attn.q_proj.weight",
        "model._orig_mod.embed_tokens.weight",
        "lm_head._orig_mod.weight",
    )
    assert new_names(*wrapped) == list(MODEL)


def test_a_whole_model_of_peft_keeps_what_was_trained():
    result = canonical_names(
        [
            "base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight",
            "base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight",
            "base_model.model.model.embed_tokens.original_module.weight",
            "base_model.model.model.embed_tokens.modules_to_save.default.weight",
            "base_model.model.lm_head.weight",
        ],
        "checkpoint",
    )
    assert result.num_replaced == 1
    assert list(result.names.values()) == [
        MODEL[0],
        "model.layers.0.self_attn.q_proj.lora_A.default.weight",
        None,
        *MODEL[1:],
    ]


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.lm_head.default.weight",
        "base_model.model.lm_head.modules_to_save.weight",
        "base_model.model.lm_head.modules_to_save.default.weight",
        "module.base_model.model.lm_head.modules_to_save.default.weight",
    ],
)
def test_every_form_of_a_saved_module(name):
    lora = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    prefix = "module." if name.startswith("module.") else ""
    assert new_names(prefix + lora, name) == [lora, "base_model.model.lm_head.weight"]


def test_the_vision_model_of_transformers_5_gets_its_prefix():
    names = ("embeddings.class_embedding", "encoder.layers.0.mlp.fc1.bias", "pre_layrnorm.weight")
    for prefix in ("", "module."):
        assert new_names(*(prefix + name for name in names)) == [f"vision_model.{n}" for n in names]
    tower = "model.vision_tower.vision_tower."
    assert new_names(MODEL[0], tower + names[1])[1] == f"{tower}vision_model.{names[1]}"
    inner = f"{tower}vision_model.{names[1]}"
    assert new_names(MODEL[0], inner)[1] == inner


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("m.q_proj.lora_A.first.weight", "m.q_proj.lora_A.second.weight"),
            r"several adapters \(first, second\)",
        ),
        (("_fsdp_wrapped_module._flat_param",), "FULL_STATE_DICT"),
    ],
)
def test_what_cannot_be_read_is_explained(names, message):
    with pytest.raises(WeightsError, match=message):
        new_names(*names)
