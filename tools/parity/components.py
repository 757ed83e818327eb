"""The part `components`: single modules at full size.

The entry in `components/info.json` determines what a file contains; its name does not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.parity import clip_components, llama_components, region_components, sam_components
from tools.parity.recorded_folder import entry_errors, report_unknown_files
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile, read_json

ComponentCheck = Callable[[RecordedFile, dict[str, Any]], None]

# Last part of a key of an entry -> why the key is not compared.
READ = "configuration"
PROSE = "prose"
UNCOMPARED_KEYS = {
    **dict.fromkeys(("salt", "weights_prefix", "input", "text_input", "inputs", "next_id"), READ),
    **dict.fromkeys(("r", "alpha", "state_dict_names", "dim", "depth", "heads"), READ),
    **dict.fromkeys(("global_attn", "resize", "orig", "gn_groups", "mid"), READ),
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers"), READ),
    **dict.fromkeys(("num_attention_heads", "image_size", "patch_size", "hidden_act"), READ),
    **dict.fromkeys(("layer_norm_eps", "hidden", "inter", "layers", "vocab", "rms_eps"), READ),
    **dict.fromkeys(("rope_theta", "max_pos"), READ),
    **dict.fromkeys(("note", "names", "roi_level"), PROSE),
    **dict.fromkeys(("projector_reads", "region_encoder_reads"), PROSE),
    "projection_dim": "CLIP's joint space, which the model does not use",
}


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare every component that `components/info.json` describes.

    Args:
        folder: the golden folder.
        report: receives the results.

    Raises:
        GoldenError: `info.json` is absent, cannot be read or has no entry.
    """
    root = folder / "components"
    info = read_json(root / "info.json")
    if not isinstance(info, dict) or not info:
        raise GoldenError(f"{root / 'info.json'}: describes nothing")
    files: dict[str, RecordedFile] = {}
    for name in info:
        with report.guard(str(root / f"{name}.npz")):
            files[name] = RecordedFile.open(report, "components", root / f"{name}.npz")
    for name, recorded in files.items():
        with report.guard(str(root / f"{name}.npz")), recorded, entry_errors(root / "info.json"):
            component_check = select_check(recorded, info[name])
            # Without a check every array in the file stays unknown, which is a failure.
            if component_check is not None:
                component_check(recorded, {**_inherited_entry(recorded, info, files), **info[name]})
    with RecordedFile.open(report, "components", root / "info.json") as described:
        _compare_description(described)
    expected = {"info.json", *(f"{name}.npz" for name in info)}
    report_unknown_files(report, "components", root, expected)


def _compare_description(described: RecordedFile) -> None:
    """Compare values that follow from others and exclude known keys; any other key fails."""
    for name in described.names:
        entry, _, key = name.partition(".")
        if key == "scaling":
            rank, alpha = described.get(f"{entry}.r"), described.get(f"{entry}.alpha")
            described.compare(name, alpha / rank, "metric")
        elif key == "gelu":
            described.compare(name, "exact erf", "exact")
        elif (last := key.rpartition(".")[2]) in UNCOMPARED_KEYS:
            described.exclude(name, UNCOMPARED_KEYS[last])


def select_check(recorded: RecordedFile, entry: dict[str, Any]) -> ComponentCheck | None:
    """Select the check of a file by its entry and its arrays; None if no check fits."""
    config = entry.get("config", {})
    if "patch_size" in config:
        return clip_components.check_clip
    if "rope_theta" in config:
        return llama_components.check_llama
    if "global_attn" in entry:
        return sam_components.check_image_encoder
    if "post" in entry:
        return sam_components.check_prompt_mask_decoder
    if {"r", "alpha"} <= set(entry):
        return llama_components.check_lora_linear
    if "text_input" in entry:
        return llama_components.check_projections
    if "fused_level0" in recorded:
        return region_components.check_region
    if "boxes0" in recorded:
        return region_components.check_region_bf16
    return None


def _inherited_entry(
    recorded: RecordedFile, info: dict[str, Any], files: dict[str, RecordedFile]
) -> dict[str, Any]:
    """Return the region encoder's entry for its bfloat16 variant, whose entry has only changes."""
    if "boxes0" not in recorded:
        return {}
    entries = [info[name] for name, other in files.items() if "fused_level0" in other]
    if len(entries) != 1:
        raise GoldenError(
            f"{recorded.file}: it is a variant of a region encoder, but there are {len(entries)}"
        )
    return entries[0]
