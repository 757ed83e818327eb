"""Weight table of the region encoder."""

from __future__ import annotations

from glamm_jax.config import RegionConfig
from glamm_jax.weights.rules import WeightRule, WeightTable


def region_table(config: RegionConfig, num_levels: int) -> WeightTable:
    """Return the table of the region encoder, relative to `model.region_encoder.`

    Args:
        config: sizes; the output layer is included if `output` is "own".
        num_levels: number of CLIP hidden states that it reads.
    """
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
    for tensor, leaf in linears.items():
        rules.append(WeightRule(f"roi_align.{tensor}.weight", f"{leaf}.kernel", "linear"))
        rules.append(WeightRule(f"roi_align.{tensor}.bias", f"{leaf}.bias"))
    norms = {"pos_embedd.2": "position.norm1", "pos_embedd.5": "position.norm2"}
    for tensor, leaf in norms.items():
        rules.append(WeightRule(f"roi_align.{tensor}.weight", f"{leaf}.scale"))
        rules.append(WeightRule(f"roi_align.{tensor}.bias", f"{leaf}.bias"))
    return WeightTable(tuple(rules))
