"""Weight table of LLaMA / Vicuna, Hugging Face names, with or without injected LoRA."""

from __future__ import annotations

from glamm_jax.config import PROJECTIONS, LlamaConfig, LoRAConfig
from glamm_jax.weights.rules import Rule, Table, Unread

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


def llama_table(config: LlamaConfig, lora: LoRAConfig | None = None) -> Table:
    """Every tensor of a LlamaForCausalLM; adapters as peft's injected names (trap 28)."""
    layers = tuple(range(config.num_layers))
    prefix = "model.layers.{layer}."
    rules = [
        Rule("model.embed_tokens.weight", "embed_tokens.table"),
        Rule("model.norm.weight", "norm.scale"),
        Rule("lm_head.weight", "lm_head.kernel", "linear"),
        Rule(f"{prefix}input_layernorm.weight", "layers.input_norm.scale", layers=layers),
        Rule(
            f"{prefix}post_attention_layernorm.weight",
            "layers.post_attention_norm.scale",
            layers=layers,
        ),
    ]
    for name in PROJECTIONS:
        tensor = prefix + ("self_attn." if name in _ATTENTION else "mlp.") + name
        leaf = f"layers.{name}"
        rules.append(Rule(f"{tensor}.weight", f"{leaf}.kernel", "linear", layers))
        if lora is not None and name in lora.targets:
            for matrix in ("A", "B"):
                adapter = f"{tensor}.lora_{matrix}.default.weight"
                rules.append(Rule(adapter, f"{leaf}.lora.{matrix.lower()}", "linear", layers))
    rotary = Unread(
        f"{prefix}self_attn.rotary_emb.inv_freq", "computed", "theta^(-2i/width)", layers
    )
    return Table(tuple(rules), (rotary,))
