"""SAM's prompt encoder: points, boxes, text embeddings and masks to sparse and dense embeddings."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from glamm_jax.config import SAMConfig
from glamm_jax.nn.initializers import normal
from glamm_jax.nn.linear import Linear, PatchConv
from glamm_jax.nn.mlp import activate
from glamm_jax.nn.norm import LayerNorm

NORM_EPS = 1e-6
# Rows of `point_embeddings`.
BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = range(4)
NOT_A_POINT = -1


class ConstantBuffer(nnx.Variable):
    """A constant of the checkpoint; it is saved and loaded, but not trained."""


def encode_positions(
    positions: Float[Array, "*batch 2"], frequencies: Float[Array, "2 half"]
) -> Float[Array, "*batch c"]:
    """Return float32 random Fourier features, sines then cosines, of x, y in [0, 1]."""
    angles = 2 * math.pi * ((2 * positions.astype(jnp.float32) - 1) @ frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class MaskEmbedding(nnx.Module):
    """Mask logits embedded on the grid: two convolutions of stride 2 and a 1x1 convolution."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        channels = config.mask_channels
        self.conv1 = PatchConv(1, channels // 4, 2, rngs=rngs)
        self.norm1 = LayerNorm(channels // 4, NORM_EPS)
        self.conv2 = PatchConv(channels // 4, channels, 2, rngs=rngs)
        self.norm2 = LayerNorm(channels, NORM_EPS)
        self.conv3 = Linear(channels, config.out_dim, (None, "embed"), rngs=rngs)

    def __call__(self, masks: Float[Array, "m h w"]) -> Float[Array, "m s s c"]:
        x = activate(self.norm1(self.conv1(masks[..., None])), "gelu")
        return self.conv3(activate(self.norm2(self.conv2(x)), "gelu"))


class PromptEncoder(nnx.Module):
    """Encoder of the prompts of m masks; every mask has the same kinds and number of prompts."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        dim = config.out_dim
        self.frequencies = ConstantBuffer(normal(rngs, (2, dim // 2), 1.0), axes=(None, None))
        self.point_embeddings = nnx.Param(normal(rngs, (4, dim), 1.0), axes=(None, None))
        self.not_a_point = nnx.Param(normal(rngs, (dim,), 1.0), axes=(None,))
        self.no_mask = nnx.Param(normal(rngs, (dim,), 1.0), axes=(None,))
        self.mask_embedding = MaskEmbedding(config, rngs=rngs)
        self.image_size, self.grid_size = config.image_size, config.grid_size

    def __call__(
        self,
        *,
        points: Float[Array, "m p 2"] | None = None,
        labels: Int[Array, "m p"] | None = None,
        boxes: Float[Array, "m 4"] | None = None,
        text: Float[Array, "m t c"] | None = None,
        masks: Float[Array, "m h w"] | None = None,
    ) -> tuple[Float[Array, "m n c"], Float[Array, "m s s c"]]:
        """Encode prompts to sparse and dense embeddings.

        Args:
            points: x, y in pixels of the padded canvas.
            labels: of `points`, required with them: 1 foreground, 0 background, -1 not a point.
            boxes: x0 y0 x1 y1 in pixels of the padded canvas.
            text: embeddings that are used unchanged, each as a separate prompt (quirk 23).
            masks: logits of side `SAMConfig.mask_size`.

        Returns:
            Sparse embeddings (points, box corners, text, in this order) and dense ones, in the
            dtype of `text` or `masks`, else float32. Without any prompt, m is 1.

        Raises:
            ValueError: points without labels or the reverse, or prompts of different numbers of
                masks.

        Source: model/SAM/modeling/prompt_encoder.py. As there, points without a box are followed by
            one more with the label "not a point"; text alone is not.
        """
        prompts = [x for x in (points, boxes, text, masks) if x is not None]
        if len({x.shape[0] for x in prompts}) > 1:
            raise ValueError(f"prompts of different numbers of masks: {[x.shape for x in prompts]}")
        if (points is None) != (labels is None):
            raise ValueError("points and labels must be given together")
        num_masks = prompts[0].shape[0] if prompts else 1
        dtype = next((x.dtype for x in (text, masks) if x is not None), jnp.dtype(jnp.float32))
        sparse = [jnp.zeros((num_masks, 0, self.no_mask[...].shape[0]), dtype)]
        if points is not None and labels is not None:
            sparse.append(self._embed_points(points, labels, pad=boxes is None).astype(dtype))
        if boxes is not None:
            sparse.append(self._embed_boxes(boxes).astype(dtype))
        if text is not None:
            sparse.append(text)
        return jnp.concatenate(sparse, axis=1), self._embed_masks(masks, num_masks, dtype)

    def dense_positions(self) -> Float[Array, "s s c"]:
        """Return the float32 position encoding of the centre of every grid cell."""
        centres = (jnp.arange(self.grid_size, dtype=jnp.float32) + 0.5) / self.grid_size
        x, y = jnp.meshgrid(centres, centres)
        return encode_positions(jnp.stack([x, y], axis=-1), self.frequencies[...])

    def _encode_pixels(self, points: Float[Array, "m p 2"]) -> Float[Array, "m p c"]:
        """Encode the positions of pixel centres."""
        positions = (points.astype(jnp.float32) + 0.5) / self.image_size
        return encode_positions(positions, self.frequencies[...])

    def _embed_points(
        self, points: Float[Array, "m p 2"], labels: Int[Array, "m p"], *, pad: bool
    ) -> Float[Array, "m p2 c"]:
        if pad:
            points = jnp.pad(points, ((0, 0), (0, 1), (0, 0)))
            labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=NOT_A_POINT)
        encoded, labels = self._encode_pixels(points), labels[..., None]
        background, foreground = self.point_embeddings[...][: FOREGROUND + 1, None, None]
        learned = jnp.where(labels == FOREGROUND, foreground, 0)
        learned = jnp.where(labels == BACKGROUND, background, learned)
        not_a_point = self.not_a_point[...][None, None]
        return jnp.where(labels == NOT_A_POINT, not_a_point, encoded + learned)

    def _embed_boxes(self, boxes: Float[Array, "m 4"]) -> Float[Array, "m 2 c"]:
        corners = self._encode_pixels(boxes.reshape(-1, 2, 2))
        return corners + self.point_embeddings[...][None, TOP_LEFT : BOTTOM_RIGHT + 1]

    def _embed_masks(
        self, masks: Float[Array, "m h w"] | None, num_masks: int, dtype: jnp.dtype
    ) -> Float[Array, "m s s c"]:
        if masks is not None:
            return self.mask_embedding(masks).astype(dtype)
        embedding = self.no_mask[...].astype(dtype)
        shape = (num_masks, self.grid_size, self.grid_size, embedding.shape[0])
        return jnp.broadcast_to(embedding, shape)
