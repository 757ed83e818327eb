"""Weight table of the complete model: the original's state dict, component by component."""

from __future__ import annotations

from glamm_jax.config import GLaMMConfig
from glamm_jax.weights.clip import clip_table
from glamm_jax.weights.llama import llama_table
from glamm_jax.weights.region import region_table
from glamm_jax.weights.rules import WeightRule, WeightTable
from glamm_jax.weights.sam import sam_table

CLIP_PREFIX = "model.vision_tower.vision_tower."
SAM_PREFIX = "model.grounding_encoder."
REGION_PREFIX = "model.region_encoder."


def two_layer_mlp(tensor: str) -> WeightTable:
    """Return the table of an nn.Sequential(Linear, activation, Linear), which is an MLP here."""
    rules = []
    for index, layer in ((0, 0), (2, 1)):
        rules.append(WeightRule(f"{tensor}.{index}.weight", f"layers.{layer}.kernel", "linear"))
        rules.append(WeightRule(f"{tensor}.{index}.bias", f"layers.{layer}.bias"))
    return WeightTable(tuple(rules))


def glamm_table(config: GLaMMConfig) -> WeightTable:
    """Return the table of GLaMMForCausalLM with CLIP and, if configured, LoRA adapters."""
    regions = region_table(config.region, len(config.clip.region_layers))
    return (
        llama_table(config.llama, config.lora).with_prefix(leaf="llama.")
        + clip_table(config.clip).with_prefix(CLIP_PREFIX, "clip.")
        + two_layer_mlp("model.mm_projector").with_prefix(leaf="projector.")
        + regions.with_prefix(REGION_PREFIX, "region_encoder.")
        + sam_table(config.sam).with_prefix(SAM_PREFIX, "sam.")
        + two_layer_mlp("model.text_hidden_fcs.0").with_prefix(leaf="text_projection.")
    )
