"""The part `components`: single modules at true size.

What a file holds is told by its entry in `components/info.json`, never by its name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from glamm_jax.parity import clip_components, llama_components, region_components, sam_components
from glamm_jax.parity.report import GoldenError, Ledger, Recorded, read_json

CheckOne = Callable[[Recorded, dict[str, Any]], None]


def check(folder: Path, ledger: Ledger) -> None:
    """Compare every component that `components/info.json` describes.

    Raises: GoldenError for a missing or broken file, or a file that info.json does not describe.
    """
    root = folder / "components"
    info = read_json(root / "info.json")
    described = {f"{name}.npz" for name in info}
    found = {path.name for path in root.glob("*.npz")}
    if stray := sorted(found - described):
        raise GoldenError(f"{root}: info.json does not describe {', '.join(stray)}")
    for name, entry in info.items():
        path = root / f"{name}.npz"
        with ledger.guard(str(path)), Recorded.open(ledger, "components", path) as recorded:
            kind = check_of(recorded, entry)
            if kind is not None:  # otherwise every array in it stays unknown, and fails
                kind(recorded, _with_inputs(name, entry, info))


def check_of(recorded: Recorded, entry: dict[str, Any]) -> CheckOne | None:
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


def _with_inputs(name: str, entry: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    """A variant (`NAME_bf16`) is described by what it changes of NAME."""
    base = next((other for other in info if other != name and name.startswith(other)), None)
    return {**info[base], **entry} if base else entry
