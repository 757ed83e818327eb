"""Conditional generation: what is inside of a mask is painted anew, as a prompt says.

The mask of a phrase and a prompt are handed to an inpainting pipeline of diffusers, or to anything
that is called in the same way (`InpaintingPipeline`).

Source: section 4 of the paper, "conditional image generation".
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from glamm_jax.errors import GLaMMError

PAINTED_SIDE = 512  # pixels of the longer side; what Stable Diffusion was trained on
SIDE_MULTIPLE = 8  # sides that a pipeline accepts
INSTALL = "pip install diffusers torch accelerate"
NOT_INSTALLED = (
    "Conditional generation needs diffusers, which is not installed. Install it with "
    f"`{INSTALL}`, and start the app with `--inpainting MODEL`."
)
NO_PIPELINE = (
    "Conditional generation needs an inpainting model: start the app with `--inpainting MODEL`, "
    "a folder or the name of a model that diffusers can load."
)


class InpaintingError(GLaMMError):
    """The pipeline is not there, cannot be loaded, or cannot be used for this image."""


@runtime_checkable
class InpaintingPipeline(Protocol):
    """What is used of a pipeline of diffusers."""

    def __call__(
        self,
        *,
        prompt: str,
        image: Image.Image,
        mask_image: Image.Image,
        height: int,
        width: int,
    ) -> Any:
        """Return an object whose `images` has the painted image."""
        ...


def pipeline_hint() -> str:
    """Return what to do to get a pipeline on this machine."""
    return NO_PIPELINE if find_spec("diffusers") else NOT_INSTALLED


def load_pipeline(model: str) -> InpaintingPipeline:
    """Load an inpainting pipeline of diffusers.

    Args:
        model: a folder, or the name of a model that diffusers downloads.

    Raises:
        InpaintingError: diffusers is not installed, or cannot load the model.
    """
    if find_spec("diffusers") is None:
        raise InpaintingError(NOT_INSTALLED)
    from diffusers import AutoPipelineForInpainting  # pyright: ignore[reportMissingImports]

    try:
        return AutoPipelineForInpainting.from_pretrained(model)
    except Exception as error:  # of diffusers, transformers, huggingface_hub, safetensors, torch
        raise InpaintingError(f"{model}: diffusers cannot load it: {error}") from error


def inpaint(
    pipeline: InpaintingPipeline,
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    prompt: str,
) -> UInt8[np.ndarray, "h w 3"]:
    """Return the image with the pixels of a mask painted anew; all others are unchanged.

    Args:
        pipeline: paints.
        image: RGB image.
        mask: what to paint.
        prompt: what is to be there.

    Raises:
        InpaintingError: the prompt or the mask is empty, or the pipeline fails.
    """
    if not prompt.strip():
        raise InpaintingError("Write what is to be painted into the mask.")
    if not mask.any():
        raise InpaintingError("The mask is empty, so there is nothing to paint.")
    height, width = image.shape[:2]
    # Small images are enlarged: a model paints nothing of use at 64 pixels.
    scale = PAINTED_SIDE / max(height, width)
    painted_height, painted_width = (
        max(SIDE_MULTIPLE, round(side * scale / SIDE_MULTIPLE) * SIDE_MULTIPLE)
        for side in (height, width)
    )
    size = (painted_width, painted_height)
    try:
        result = pipeline(
            prompt=prompt,
            image=Image.fromarray(image).resize(size, Image.Resampling.LANCZOS),
            mask_image=Image.fromarray(mask).convert("L").resize(size, Image.Resampling.NEAREST),
            height=painted_height,
            width=painted_width,
        )
        painted = result.images[0].convert("RGB")
    except Exception as error:  # whatever a pipeline raises, such as out of memory
        raise InpaintingError(f"The inpainting pipeline failed: {error}") from error
    pixels = np.asarray(painted.resize((width, height), Image.Resampling.LANCZOS))
    return np.where(mask[..., None], pixels, image)
