"""Names of other checkpoints' tensors in GLaMM's state dict, and which tensors are dropped."""

from __future__ import annotations

from glamm_jax.weights.glamm import CLIP_PREFIX, REGION_PREFIX, SAM_PREFIX
from glamm_jax.weights.infer_config import Family
from glamm_jax.weights.lora import injected_name

# GLaMM's region encoder is derived from this module of GPT4RoI; the names below it are the same.
SPI_PREFIX = "model.spi_module."
_CLIP_TEXT = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")

# Why tensors of a family are dropped; printed after a conversion.
DROPPED: dict[Family, str] = {
    "glamm": "CLIP of the GLaMM checkpoint; replaced by the folder given with --clip",
    "llama": "CLIP of the LLaMA checkpoint; replaced by the folder given with --clip",
    "clip": "text encoder of CLIP; GLaMM uses the vision model only",
    "gpt4roi": "everything of GPT4RoI but the region encoder",
}


def glamm_name(family: Family, name: str) -> str | None:
    """Return a tensor's name in GLaMM's state dict, or None if the tensor is dropped.

    Args:
        family: kind of the checkpoint.
        name: of the tensor in the checkpoint.
    """
    if family == "clip":
        return None if name.startswith(_CLIP_TEXT) else CLIP_PREFIX + name
    if family == "sam":
        return SAM_PREFIX + name
    if family == "gpt4roi":
        if not name.startswith(SPI_PREFIX):
            return None
        return REGION_PREFIX + name.removeprefix(SPI_PREFIX)
    return injected_name(name)
