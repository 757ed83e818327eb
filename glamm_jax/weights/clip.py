"""Weight table of CLIP's vision model under Hugging Face names."""

from __future__ import annotations

import numpy as np

from glamm_jax.config import CLIPConfig
from glamm_jax.weights.rules import UnmappedTensor, WeightRule, WeightTable

# torch name within a layer -> leaf within the stacked block
_NORMS = {"layer_norm1": "norm1", "layer_norm2": "norm2"}
_LINEARS = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.out_proj": "out_proj",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}


def clip_table(config: CLIPConfig) -> WeightTable:
    """Return the table of a CLIPVisionModel; layers that are not computed are carried."""
    layers = tuple(range(config.num_computed_layers))
    unused_layers = tuple(range(config.num_computed_layers, config.num_layers))
    prefix = "encoder.layers.{layer}."
    rules = [
        WeightRule("embeddings.class_embedding", "class_embedding"),
        WeightRule("embeddings.patch_embedding.weight", "patch_embedding.kernel", "conv"),
        WeightRule("embeddings.position_embedding.weight", "position_embedding"),
        WeightRule("pre_layrnorm.weight", "pre_norm.scale"),
        WeightRule("pre_layrnorm.bias", "pre_norm.bias"),
    ]
    unmapped = [
        UnmappedTensor(
            "embeddings.position_ids",
            "recomputed",
            "position ids 0, 1, ...",
            compute=lambda: np.arange(config.num_patches + 1, dtype=np.int64)[None],
        ),
        UnmappedTensor("post_layernorm.weight", "carried", "the pooled output is unused"),
        UnmappedTensor("post_layernorm.bias", "carried", "the pooled output is unused"),
    ]
    for tensor, leaf in _NORMS.items():
        rules.append(WeightRule(f"{prefix}{tensor}.weight", f"layers.{leaf}.scale", layers=layers))
        rules.append(WeightRule(f"{prefix}{tensor}.bias", f"layers.{leaf}.bias", layers=layers))
    for tensor, leaf in _LINEARS.items():
        kernel = f"layers.{leaf}.kernel"
        rules.append(WeightRule(f"{prefix}{tensor}.weight", kernel, "linear", layers))
        rules.append(WeightRule(f"{prefix}{tensor}.bias", f"layers.{leaf}.bias", layers=layers))
    for tensor in (*_NORMS, *_LINEARS):
        for parameter in ("weight", "bias"):
            unmapped.append(
                UnmappedTensor(
                    f"{prefix}{tensor}.{parameter}",
                    "carried",
                    "above the last hidden state that the model uses",
                    unused_layers,
                )
            )
    return WeightTable(tuple(rules), tuple(unmapped)).with_prefix(tensor="vision_model.")
