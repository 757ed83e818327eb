"""GLaMM: two image encoders, a region encoder, a language model, a pixel decoder, two projections.

    image ----> clip ----> projector (V-L) ---\\
    boxes ----> region_encoder ----------------> llama ----> text
    text  ----> embed_tokens -----------------/    |
                                                   v  hidden state that emitted [SEG]
    image ----> sam.encoder ----> sam.mask_decoder <---- text_projection (L-P)
"""

from __future__ import annotations

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import GLaMMConfig
from glamm_jax.models.clip import CLIPVision
from glamm_jax.models.fuse import place_features
from glamm_jax.models.llama import Llama
from glamm_jax.models.region import RegionEncoder
from glamm_jax.models.sam.sam import SAM
from glamm_jax.nn.attention import Segments
from glamm_jax.nn.batch_slices import map_slices, take_in_slices
from glamm_jax.nn.mlp import MLP
from glamm_jax.nn.pixel_normalization import normalize_pixels
from glamm_jax.types import Batch, Output


class GLaMM(nnx.Module):
    """Pixel-grounded language model. Paper: section 3.1; source: model/GLaMM.py."""

    def __init__(self, config: GLaMMConfig, *, rngs: nnx.Rngs):
        clip_dim, llm_dim = config.clip.hidden_dim, config.llama.hidden_dim
        self.config = config
        self.clip = CLIPVision(config.clip, rngs=rngs)
        self.projector = MLP((clip_dim, llm_dim, llm_dim), config.projector_activation, rngs=rngs)
        self.region_encoder = RegionEncoder(
            config.region,
            input_dim=clip_dim,
            output_dim=llm_dim,
            num_levels=len(config.clip.region_layers),
            rngs=rngs,
        )
        self.llama = Llama(config.llama, config.lora, rngs=rngs)
        self.text_projection = MLP(
            (llm_dim, llm_dim, config.sam.out_dim), config.text_projection_activation, rngs=rngs
        )
        self.sam = SAM(config.sam, rngs=rngs)

    def __call__(self, batch: Batch, dropout_key: Array | None = None) -> Output:
        """Compute the hidden state of every token and a low-resolution mask for every [SEG]."""
        packed = batch.segments is not None
        segments = Segments(batch.segments, batch.prefixes) if packed else None
        hidden = self.llama(
            self.embed(batch), batch.positions, batch.token_valid, dropout_key, segments
        )
        num_masks, side = batch.mask_rows.shape[0], self.config.sam.mask_size
        if num_masks == 0 or batch.grounding_images.shape[0] == 0:
            empty = jnp.zeros((num_masks, side, side), self.dtype)
            return Output(hidden, empty, empty[:, 0, 0])
        seg_hidden = map_slices(
            lambda hidden, row, position: hidden[row, position],
            batch.num_slices,
            *(hidden, batch.mask_rows, batch.mask_positions),
        )
        image_embeddings = self.encode_grounding_images(batch)
        return Output(hidden, *self.decode_masks(seg_hidden, image_embeddings, batch))

    def embed(self, batch: Batch) -> Float[Array, "b t d"]:
        """Embed the tokens; image and region features replace their placeholders."""
        x = self.llama.embed_tokens(batch.token_ids, self.dtype)
        if batch.images.shape[0] == 0:
            return x
        states = self.encode_images(batch.images)
        patches = self.projector(self.clip.patch_features(states, self.config.clip.projector_layer))
        patches = patches.reshape(-1, patches.shape[-1])
        x = place_features(x, patches, batch.image_source, batch.num_slices)
        if batch.boxes_xyxy_unit.shape[0] == 0:
            return x
        regions = self.encode_regions(states, batch)
        return place_features(x, regions, batch.region_source, batch.num_slices)

    def encode_images(self, images: Array) -> Float[Array, "k i n c"]:
        """Compute the CLIP hidden states that the projector and the region encoder use."""
        clip = self.config.clip
        pixels = normalize_pixels(images, clip.pixel_mean, clip.pixel_std)
        return self.clip(pixels.astype(self.dtype))

    def encode_regions(self, states: Float[Array, "k i n c"], batch: Batch) -> Float[Array, "r d"]:
        """Compute one vector per box; pyramids are built for images with boxes only."""
        config, slots = self.config, jnp.maximum(batch.region_images, 0)
        states = states.astype(config.region.compute_dtype or states.dtype)
        levels = [
            take_in_slices(self.clip.patch_features(states, n), slots, batch.num_slices)
            for n in config.clip.region_layers
        ]
        regions = self.region_encoder(
            levels, batch.boxes_xyxy_unit, batch.box_image, batch.num_slices
        )
        return regions if config.region.output == "own" else self.projector(regions)

    def encode_grounding_images(self, batch: Batch) -> Float[Array, "g s s c"]:
        """Compute SAM's embeddings of the images to segment."""
        sam = self.config.sam
        pixels = normalize_pixels(
            batch.grounding_images, sam.pixel_mean, sam.pixel_std, batch.resized_sizes
        )
        return self.sam.encode(pixels.astype(self.dtype))

    def decode_masks(
        self,
        seg_hidden: Float[Array, "m d"],
        image_embeddings: Float[Array, "g s s c"],
        batch: Batch,
    ) -> tuple[Float[Array, "m h w"], Float[Array, "m"]]:
        """Compute low-resolution mask logits and IoU estimates for [SEG] tokens.

        Args:
            seg_hidden: the hidden states that emitted [SEG].
            image_embeddings: result of `encode_grounding_images`.
            batch: gives the image of each mask.
        """
        # quirk 2: a mask comes from the hidden state that emits [SEG], not from that of [SEG].
        # quirk 23: every [SEG] is a separate text prompt; only the single-mask token is used.
        prompts = self.text_projection(seg_hidden)[:, None]
        sparse, dense = self.sam.prompt_encoder(text=prompts)
        per_mask = take_in_slices(image_embeddings, batch.mask_image, batch.num_slices)
        mask_logits, iou = self.sam.decode(per_mask, sparse, dense, multimask=False)
        return mask_logits[:, 0], iou[:, 0]

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype(self.config.compute_dtype)
