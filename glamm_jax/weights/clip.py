"""Weight table of CLIP's vision model, Hugging Face names below `vision_model.`"""

from __future__ import annotations

import numpy as np

from glamm_jax.config import CLIPConfig
from glamm_jax.weights.rules import UnmappedTensor, WeightRule, WeightTable

# torch name within a layer -> leaf within the stacked block, transform
_NORMS = {"layer_norm1": "norm1", "layer_norm2": "norm2"}
_LINEARS = {
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.out_proj": "out_proj",
    "mlp.fc1": "mlp.up",
    "mlp.fc2": "mlp.down",
}
_UNREAD = "above the last hidden state that anybody reads"


def clip_table(config: CLIPConfig) -> WeightTable:
    """Every tensor of a CLIPVisionModel; layers that are not computed are carried through."""
    layers = tuple(range(config.num_computed_layers))
    above = tuple(range(config.num_computed_layers, config.num_layers))
    prefix = "encoder.layers.{layer}."
    rules = [
        WeightRule("embeddings.class_embedding", "class_embedding"),
        WeightRule("embeddings.patch_embedding.weight", "patch_embedding.kernel", "conv"),
        WeightRule("embeddings.position_embedding.weight", "position_embedding"),
        WeightRule("pre_layrnorm.weight", "pre_norm.scale"),
        WeightRule("pre_layrnorm.bias", "pre_norm.bias"),
    ]
    unread = [
        UnmappedTensor(
            "embeddings.position_ids",
            "recomputed",
            "0..number of positions - 1",
            value=lambda: np.arange(config.num_patches + 1, dtype=np.int64)[None],
        ),
        UnmappedTensor("post_layernorm.weight", "carried", "the pooled output is read by nobody"),
        UnmappedTensor("post_layernorm.bias", "carried", "the pooled output is read by nobody"),
    ]
    for torch, ours in _NORMS.items():
        rules.append(WeightRule(f"{prefix}{torch}.weight", f"layers.{ours}.scale", layers=layers))
        rules.append(WeightRule(f"{prefix}{torch}.bias", f"layers.{ours}.bias", layers=layers))
    for torch, ours in _LINEARS.items():
        kernel = f"layers.{ours}.kernel"
        rules.append(WeightRule(f"{prefix}{torch}.weight", kernel, "linear", layers))
        rules.append(WeightRule(f"{prefix}{torch}.bias", f"layers.{ours}.bias", layers=layers))
    for torch in (*_NORMS, *_LINEARS):
        for kind in ("weight", "bias"):
            unread.append(UnmappedTensor(f"{prefix}{torch}.{kind}", "carried", _UNREAD, above))
    return WeightTable(tuple(rules), tuple(unread)).under(tensor="vision_model.")
