"""SAM whole: the grounding encoder, the prompt encoder and the pixel decoder of GLaMM.

embeddings = sam.encode(pixels)                             # once an image
masks, iou = sam.predict_masks(embeddings[mask_image], boxes=boxes)   # one row a mask
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import SAMConfig
from glamm_jax.models.sam.decoder import MaskDecoder
from glamm_jax.models.sam.encoder import ImageEncoder
from glamm_jax.models.sam.prompt import PromptEncoder


class SAM(nnx.Module):
    """An image is encoded once; prompts are decoded against its embedding."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        self.encoder = ImageEncoder(config, rngs=rngs)
        self.prompt_encoder = PromptEncoder(config, rngs=rngs)
        self.mask_decoder = MaskDecoder(config, rngs=rngs)
        self.config = config

    def encode(self, pixels: Float[Array, "g h w 3"]) -> Float[Array, "g s s c"]:
        """Embeddings of images that are normalised and padded to the canvas."""
        return self.encoder(pixels)

    def decode(
        self,
        image_embeddings: Float[Array, "m s s c"],
        sparse: Float[Array, "m n c"],
        dense: Float[Array, "m s s c"],
        *,
        multimask: bool = False,
    ) -> tuple[Float[Array, "m k s4 s4"], Float[Array, "m k"]]:
        """Mask logits and IoU estimates: of mask token 0, or of the `num_multimasks` others."""
        positions = self.prompt_encoder.dense_positions()
        choice = "multiple" if multimask else "single"
        return self.mask_decoder(image_embeddings, positions, sparse, dense, choice)

    def predict_masks(
        self,
        image_embeddings: Float[Array, "m s s c"],
        *,
        multimask: bool = False,
        **prompts: Array,
    ) -> tuple[Float[Array, "m k s4 s4"], Float[Array, "m k"]]:
        """Masks for prompts, given as `PromptEncoder` takes them, in pixels of the canvas."""
        sparse, dense = self.prompt_encoder(**prompts)
        return self.decode(image_embeddings, sparse, dense, multimask=multimask)
