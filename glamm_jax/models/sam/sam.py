"""SAM: the grounding encoder, the prompt encoder and the pixel decoder of GLaMM.

embeddings = sam.encode(pixels)                                       # once per image
masks, iou = sam.predict_masks(embeddings[mask_image], boxes=boxes)   # one row per mask
"""

from __future__ import annotations

from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import SAMConfig
from glamm_jax.models.sam.decoder import MaskDecoder
from glamm_jax.models.sam.encoder import ImageEncoder
from glamm_jax.models.sam.prompt import PromptEncoder


class SAM(nnx.Module):
    """Image encoder, prompt encoder and mask decoder; an image is encoded once for all prompts."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        self.encoder = ImageEncoder(config, rngs=rngs)
        self.prompt_encoder = PromptEncoder(config, rngs=rngs)
        self.mask_decoder = MaskDecoder(config, rngs=rngs)
        self.config = config

    def encode(self, pixels: Float[Array, "g h w 3"]) -> Float[Array, "g s s c"]:
        """Encode images that are normalized and padded to the canvas."""
        return self.encoder(pixels)

    def decode(
        self,
        image_embeddings: Float[Array, "m s s c"],
        sparse: Float[Array, "m n c"],
        dense: Float[Array, "m s s c"],
        *,
        multimask: bool = False,
    ) -> tuple[Float[Array, "m k s4 s4"], Float[Array, "m k"]]:
        """Decode masks from image and prompt embeddings.

        Args:
            image_embeddings: one per mask.
            sparse: sparse prompt embeddings.
            dense: dense prompt embeddings.
            multimask: use the `num_multimasks` multi-mask tokens instead of the single-mask token.

        Returns:
            Mask logits and IoU estimates.
        """
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
        """Decode masks from image embeddings and prompts.

        Args:
            image_embeddings: one per mask.
            multimask: see `decode`.
            prompts: arguments of `PromptEncoder`, in pixels of the canvas.
        """
        sparse, dense = self.prompt_encoder(**prompts)
        return self.decode(image_embeddings, sparse, dense, multimask=multimask)
