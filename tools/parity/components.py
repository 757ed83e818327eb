"""The part `components`: single modules at true size.

What a file holds is told by its entry in `components/info.json`, never by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tools.parity import clip_components, llama_components, region_components, sam_components
from tools.parity.recorded_folder import entry_errors, report_unknown_files
from tools.parity.report import ComparisonReport, GoldenError, RecordedFile, read_json

ComponentCheck = Callable[[RecordedFile, dict[str, Any]], None]

# What an entry may say, by the last part of its key: read by a case, or prose.
READ = "configuration"
PROSE = "prose"
KNOWN_KEYS = {
    **dict.fromkeys(("salt", "weights_prefix", "input", "text_input", "inputs", "next_id"), READ),
    **dict.fromkeys(("r", "alpha", "state_dict_names", "dim", "depth", "heads"), READ),
    **dict.fromkeys(("global_attn", "resize", "orig", "gn_groups", "mid"), READ),
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers"), READ),
    **dict.fromkeys(("num_attention_heads", "image_size", "patch_size", "hidden_act"), READ),
    **dict.fromkeys(("layer_norm_eps", "hidden", "inter", "layers", "vocab", "rms_eps"), READ),
    **dict.fromkeys(("rope_theta", "max_pos"), READ),
    **dict.fromkeys(("note", "names", "roi_level"), PROSE),
    **dict.fromkeys(("projector_reads", "region_encoder_reads"), PROSE),
    "projection_dim": "CLIP's joint space, which nobody here projects to",
}


def check(folder: Path, report: ComparisonReport) -> None:
    """Compare every component that `components/info.json` describes.

    Raises: GoldenError for a missing or broken info.json.
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
            kind = select_check(recorded, info[name])
            if kind is not None:  # otherwise every array in it stays unknown, and fails
                kind(recorded, {**_inputs_for(recorded, info, files), **info[name]})
    with RecordedFile.open(report, "components", root / "info.json") as described:
        _settle_description(described)
    known = {"info.json", *(f"{name}.npz" for name in info)}
    report_unknown_files(report, "components", root, known)


def _settle_description(described: RecordedFile) -> None:
    """Compare what follows from the rest, settle what is known; any other key fails."""
    for name in described.names:
        entry, _, key = name.partition(".")
        if key == "scaling":
            rank, alpha = described.get(f"{entry}.r"), described.get(f"{entry}.alpha")
            described.compare(name, alpha / rank, "metric")
        elif key == "gelu":
            described.compare(name, "exact erf", "exact")
        elif (last := key.rpartition(".")[2]) in KNOWN_KEYS:
            described.exclude(name, KNOWN_KEYS[last])


def select_check(recorded: RecordedFile, entry: dict[str, Any]) -> ComponentCheck | None:
    """Which comparison a file needs, from what its entry describes and what it holds."""
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


def _inputs_for(
    recorded: RecordedFile, info: dict[str, Any], files: dict[str, RecordedFile]
) -> dict[str, Any]:
    """The region encoder's entry, for a bfloat16 variant that says only what it changes."""
    if "boxes0" not in recorded:
        return {}
    whole = [info[name] for name, other in files.items() if "fused_level0" in other]
    if len(whole) != 1:
        raise GoldenError(f"{recorded.file}: {len(whole)} region encoders it may be a variant of")
    return whole[0]
