"""A peft adapter computes here what it computes in peft, or is rejected by the key's name."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

from glamm_jax.errors import GLaMMError
from glamm_jax.json_files import JSONObject
from glamm_jax.weights.adapter import UniformAdapter, check_saved_modules
from glamm_jax.weights.peft_config import adapter_settings
from glamm_jax.weights.rules import WeightsError
from glamm_jax.weights.tensor_sources import MemorySource

A, B = ".lora_A.default.weight", ".lora_B.default.weight"
Q0, V0, Q1, V1 = (
    f"model.layers.{layer}.self_attn.{name}_proj" for layer in (0, 1) for name in ("q", "v")
)
KERNELS = {f"{module}.weight": np.zeros((6, 5), np.float32) for module in (Q0, V0, Q1, V1)}


def config(**fields: object) -> JSONObject:
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj", "v_proj"]}
    return JSONObject({**plain, **fields}, "adapter_config.json")


def matrices(ranks: dict[str, int], dtype: object = np.float32) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0)
    tensors = {}
    for module, rank in ranks.items():
        tensors[module + A] = noise.standard_normal((rank, 5)).astype(dtype)
        tensors[module + B] = noise.standard_normal((6, rank)).astype(dtype)
    return tensors


def uniform(tensors: dict[str, np.ndarray], **fields: object) -> UniformAdapter:
    return UniformAdapter(MemorySource({**KERNELS, **tensors}), adapter_settings(config(**fields)))


def update(adapter: UniformAdapter, module: str) -> np.ndarray:
    a, b = (adapter.read(module + end).astype(np.float32) for end in (A, B))
    assert (a.shape[0], b.shape[1]) == (adapter.rank, adapter.rank)
    return np.float32(adapter.scale) * (b @ a)


PLAIN = dict.fromkeys((Q0, V0, Q1, V1), 2)


def test_a_plain_adapter_is_not_changed():
    tensors = matrices(PLAIN)
    adapter = uniform(tensors)
    assert (adapter.rank, adapter.scale) == (2, 3.0)
    assert not adapter.changed and not adapter.added
    assert all((adapter.read(name) == tensor).all() for name, tensor in tensors.items())


def test_rank_stabilized_adapters_divide_by_the_root_of_the_rank():
    adapter = uniform(matrices(dict.fromkeys(PLAIN, 16)), r=16, lora_alpha=32, use_rslora=True)
    assert adapter.scale == 8.0


@pytest.mark.parametrize("is_rank_stabilized", [False, True])
def test_patterns_give_every_module_its_own_rank_and_scale(is_rank_stabilized):
    ranks = {Q0: 2, V0: 2, Q1: 3, V1: 2}
    tensors = matrices(ranks)
    adapter = uniform(
        tensors,
        use_rslora=is_rank_stabilized,
        rank_pattern={"layers.1.self_attn.q_proj": 3},
        alpha_pattern={r".*\.0\..*q_proj": 5, "q_proj": 8},
    )
    alphas = {Q0: 5, V0: 6, Q1: 8, V1: 6}
    for module, rank in ranks.items():
        scale = alphas[module] / (math.sqrt(rank) if is_rank_stabilized else rank)
        expected = scale * (tensors[module + B] @ tensors[module + A])
        np.testing.assert_allclose(update(adapter, module), expected, rtol=1e-5, err_msg=module)
    # The export writes the original bytes of what was changed.
    assert adapter.changed == {
        *(module + end for module in (Q0, V0, V1) for end in (A, B)),
        *(Q1 + A, Q1 + B),
    } - {Q1 + A}
    originals = adapter.originals()
    assert all((originals.read(name) == tensors[name]).all() for name in adapter.changed)


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=4, max_size=4),
    alphas=st.lists(st.floats(0.5, 64), min_size=4, max_size=4),
    is_rank_stabilized=st.booleans(),
)
def test_any_pattern_gives_the_updates_of_peft(ranks, alphas, is_rank_stabilized):
    modules = [Q0, V0, Q1, V1]
    tensors = matrices(dict(zip(modules, ranks, strict=True)))
    adapter = uniform(
        tensors,
        use_rslora=is_rank_stabilized,
        rank_pattern=dict(zip(modules, ranks, strict=True)),
        alpha_pattern=dict(zip(modules, alphas, strict=True)),
    )
    for module, rank, alpha in zip(modules, ranks, alphas, strict=True):
        scale = alpha / (math.sqrt(rank) if is_rank_stabilized else rank)
        expected = scale * (tensors[module + B] @ tensors[module + A])
        np.testing.assert_allclose(update(adapter, module), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "fields",
    [
        {"layers_to_transform": [1]},
        {"layers_to_transform": 1, "layers_pattern": "layers"},
        {"exclude_modules": r".*layers\.0\..*"},
        {"target_modules": r".*layers\.1\.self_attn\.[qv]_proj"},
    ],
)
def test_layers_without_an_adapter_get_zeros(fields):
    adapter = uniform(matrices({Q1: 2, V1: 2}, ml_dtypes.bfloat16), **fields)
    assert adapter.added == {module + end for module in (Q0, V0) for end in (A, B)}
    assert not update(adapter, Q0).any() and update(adapter, Q1).any()
    assert adapter.infos[Q0 + A].dtype == np.dtype(ml_dtypes.bfloat16)  # as in the other layers


def test_an_empty_list_of_layers_is_no_restriction():
    assert uniform(matrices(PLAIN), layers_to_transform=[]).added == frozenset()


@pytest.mark.parametrize(
    ("ranks", "fields", "message"),
    [
        ({Q0: 2, V0: 2, Q1: 2}, {}, f"missing tensors of the adapter of {V1}"),
        (PLAIN, {"layers_to_transform": [1]}, f"{Q0} is adapted, but"),
        (PLAIN, {"r": 4}, r"q_proj.lora_A.default.weight: shape \(2, 5\), but rank 4"),
        ({**PLAIN, "model.lm_head": 2}, {}, "model.lm_head: only linear layers of the decoder"),
        ({}, {}, "no LoRA matrices|missing tensors"),
    ],
)
def test_tensors_that_contradict_the_settings_are_listed(ranks, fields, message):
    with pytest.raises(WeightsError, match=message):
        uniform(matrices(ranks), **fields)


def test_a_matrix_without_its_partner_is_named():
    tensors = matrices(PLAIN)
    del tensors[V1 + B]
    with pytest.raises(WeightsError, match=f"missing tensor {V1}.lora_B"):
        uniform(tensors)


@pytest.mark.parametrize(
    "name",
    [f"{Q0}.lora_B.bias", f"{Q0}.lora_magnitude_vector", "model.embed_tokens.lora_embedding_A"],
)
def test_other_tensors_of_an_adapter_are_rejected_by_name(name):
    with pytest.raises(WeightsError, match=f"{name} is not supported; merge"):
        uniform({**matrices(PLAIN), name: np.zeros(6, np.float32)})


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "IA3"},
        {"use_dora": True},
        {"lora_bias": True},
        {"target_parameters": ["mlp.experts"]},
        {"trainable_token_indices": [800, 801]},
        {"trainable_token_indices": {"embed_tokens": [1]}},
        {"layer_replication": [[0, 2], [1, 3]]},
        {"megatron_config": {"tensor_parallel": 2}},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "pissa_niter_16"},
        {"init_lora_weights": "olora"},
        {"init_lora_weights": "corda"},
        {"init_lora_weights": "loftq"},
        {"init_lora_weights": "of_the_future"},
        {"use_qalora": True},
        {"alora_invocation_tokens": [1, 2]},
        {"r": 0},
        {"r": "8"},
        {"lora_alpha": [8]},
        {"use_rslora": "yes"},
        {"rank_pattern": {"q_proj": 0}},
        {"alpha_pattern": {"(": 3}},
        {"alpha_pattern": [1]},
        {"target_modules": "("},
        {"layers_to_transform": ["1"]},
        {"modules_to_save": "lm_head"},
    ],
)
def test_a_key_that_changes_the_computation_is_rejected_by_name(fields):
    key = next(iter(fields))
    with pytest.raises(GLaMMError, match=f"adapter_config.json: {key}"):
        adapter_settings(config(**fields))


def test_the_defaults_of_peft_give_no_warning():
    defaults = {
        "alora_invocation_tokens": None,
        "arrow_config": None,
        "auto_mapping": None,
        "base_model_name_or_path": "x",
        "bias": "none",
        "corda_config": None,
        "ensure_weight_tying": False,
        "eva_config": None,
        "exclude_modules": None,
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layer_replication": None,
        "layers_pattern": None,
        "layers_to_transform": None,
        "loftq_config": {},
        "lora_alpha": 16,
        "lora_bias": False,
        "lora_dropout": 0.05,
        "megatron_config": None,
        "megatron_core": "megatron.core",
        "modules_to_save": None,
        "peft_version": "0.18.0",
        "qalora_group_size": 16,
        "r": 8,
        "rank_pattern": {},
        "alpha_pattern": {},
        "revision": None,
        "target_parameters": None,
        "task_type": "CAUSAL_LM",
        "trainable_token_indices": None,
        "use_dora": False,
        "use_qalora": False,
        "use_rslora": False,
        "use_bdlora": None,
        "a_new_key": None,
    }
    assert adapter_settings(config(**defaults)).warnings == ()


def test_unknown_keys_and_ignored_ones_are_named():
    settings = adapter_settings(config(sparse_rank=3, fan_in_fan_out=True))
    assert "fan_in_fan_out = true is ignored" in settings.warnings[0]
    assert "unknown keys are ignored: sparse_rank = 3" in settings.warnings[1]


def test_a_module_that_the_adapter_should_contain_is_missed():
    saved = adapter_settings(config(modules_to_save=["lm_head", "embed_tokens"]))
    names = ["model.embed_tokens.weight", "lm_head.weight"]
    check_saved_modules(saved, names)
    with pytest.raises(WeightsError, match="modules_to_save lists 'lm_head'"):
        check_saved_modules(saved, names[:1])
