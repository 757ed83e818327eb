"""One name for every tensor: what other checkpoints call it, and what is left behind, and why."""

from __future__ import annotations

from glamm_jax.weights.glamm import CLIP_PREFIX, REGION_PREFIX, SAM_PREFIX
from glamm_jax.weights.infer_config import Family
from glamm_jax.weights.lora import injected_name

# GPT4RoI's module is the one that GLaMM's region encoder grew from; same names below it.
SPI_PREFIX = "model.spi_module."
_CLIP_TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")

# Why a tensor of a family may be left behind.
DROPPED: dict[Family, str] = {
    "glamm": "the CLIP inside: replaced by the folder that --clip names",
    "llama": "a CLIP inside: GLaMM's comes from its own folder",
    "clip": "CLIP's text side: GLaMM looks at images only",
    "gpt4roi": "all but the region encoder: the rest of GPT4RoI is no part of GLaMM",
}


def glamm_name(family: Family, name: str) -> str | None:
    """The name in GLaMM's state dict of a tensor of another checkpoint; None: left behind."""
    if family == "clip":
        return None if name.startswith(_CLIP_TEXT) else CLIP_PREFIX + name
    if family == "sam":
        return SAM_PREFIX + name
    if family == "gpt4roi":
        below = name.removeprefix(SPI_PREFIX)
        return None if below == name else REGION_PREFIX + below
    return injected_name(name)
