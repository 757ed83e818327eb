"""Weight table of the region encoder, names below `model.region_encoder.`"""

from __future__ import annotations

from glamm_jax.config import RegionConfig
from glamm_jax.weights.rules import WeightRule, WeightTable


def region_table(config: RegionConfig, num_levels: int) -> WeightTable:
    """Every tensor of the region encoder, its output layer included when it is its own."""
    levels, rounds = tuple(range(num_levels)), tuple(range(config.num_fusion_rounds))
    rules = [
        WeightRule("mlvl_fuse.input_conv.{layer}.weight", "input_proj.kernel", "conv1x1", levels),
        WeightRule("mlvl_fuse.input_conv.{layer}.bias", "input_proj.bias", layers=levels),
        WeightRule(
            "mlvl_fuse.fuse_convs.{layer}.conv.weight", "fusion.conv.kernel", "conv", rounds
        ),
        WeightRule("mlvl_fuse.fuse_convs.{layer}.gn.weight", "fusion.norm.scale", layers=rounds),
        WeightRule("mlvl_fuse.fuse_convs.{layer}.gn.bias", "fusion.norm.bias", layers=rounds),
        WeightRule("roi_align.pconvs.{layer}.weight", "level_conv.kernel", "conv", levels),
        WeightRule("roi_align.pconvs.{layer}.bias", "level_conv.bias", layers=levels),
        WeightRule("roi_align.flatten_linear.weight", "flatten_kernel", "map_linear"),
        WeightRule("roi_align.flatten_linear.bias", "flatten_bias"),
    ]
    linears = {"pos_embedd.0": "position.linear1", "pos_embedd.3": "position.linear2"}
    if config.output == "own":
        linears["updims"] = "output_proj"
    for torch, ours in linears.items():
        rules.append(WeightRule(f"roi_align.{torch}.weight", f"{ours}.kernel", "linear"))
        rules.append(WeightRule(f"roi_align.{torch}.bias", f"{ours}.bias"))
    for torch, ours in {"pos_embedd.2": "position.norm1", "pos_embedd.5": "position.norm2"}.items():
        rules.append(WeightRule(f"roi_align.{torch}.weight", f"{ours}.scale"))
        rules.append(WeightRule(f"roi_align.{torch}.bias", f"{ours}.bias"))
    return WeightTable(tuple(rules))
