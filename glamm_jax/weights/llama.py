"""Weight table of LLaMA and Vicuna under Hugging Face names, with or without injected LoRA."""

from __future__ import annotations

import numpy as np

from glamm_jax.config import PROJECTIONS, LlamaConfig, LoRAConfig
from glamm_jax.weights.rules import UnmappedTensor, WeightRule, WeightTable

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def rotary_frequencies(head_dim: int, theta: float) -> np.ndarray:
    """Compute the inverse frequencies that transformers of 2023 saves, equal to the last bit.

    Returns:
        float32[head_dim / 2].
    """
    # torch rounds the power to float32 before it takes the reciprocal.
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return np.float32(1) / np.power(theta, exponents.astype(np.float64)).astype(np.float32)


def llama_table(config: LlamaConfig, lora: LoRAConfig | None = None) -> WeightTable:
    """Return the table of a LlamaForCausalLM.

    Args:
        config: sizes.
        lora: adds the adapters, under the names of a training checkpoint.
    """
    layers = tuple(range(config.num_layers))
    prefix = "model.layers.{layer}."
    rules = [
        WeightRule("model.embed_tokens.weight", "embed_tokens.table"),
        WeightRule("model.norm.weight", "norm.scale"),
        WeightRule(f"{prefix}input_layernorm.weight", "layers.input_norm.scale", layers=layers),
        WeightRule(
            f"{prefix}post_attention_layernorm.weight",
            "layers.post_attention_norm.scale",
            layers=layers,
        ),
    ]
    unmapped = []
    if config.tie_embeddings:
        same = "the embeddings once more, since they are tied"
        embeddings = rules[0].tensor
        unmapped.append(UnmappedTensor("lm_head.weight", "recomputed", same, equal_to=embeddings))
    else:
        rules.insert(2, WeightRule("lm_head.weight", "lm_head.kernel", "linear"))
    for name in PROJECTIONS:
        tensor = prefix + ("self_attn." if name in _ATTENTION else "mlp.") + name
        leaf = f"layers.{name}"
        rules.append(WeightRule(f"{tensor}.weight", f"{leaf}.kernel", "linear", layers))
        if lora is not None and name in lora.targets:
            # quirk 28: training checkpoints have the names of bare injected adapters.
            for matrix in ("A", "B"):
                adapter = f"{tensor}.lora_{matrix}.default.weight"
                rules.append(WeightRule(adapter, f"{leaf}.lora.{matrix.lower()}", "linear", layers))
    # Models with scaled frequencies are newer than the versions that saved this buffer, except for
    # linear scaling, where it was the unscaled one.
    unmapped.append(
        UnmappedTensor(
            f"{prefix}self_attn.rotary_emb.inv_freq",
            "recomputed",
            "rotary frequencies theta^(-2i/head_dim)",
            layers,
            lambda: rotary_frequencies(config.head_dim, config.rope_theta),
        )
    )
    return WeightTable(tuple(rules), tuple(unmapped))
