"""SAM's prompt encoder: points, boxes, text embeddings and masks to sparse and dense embeddings."""

from __future__ import annotations

import math

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from glamm_jax.config import SAMConfig
from glamm_jax.nn.linear import Linear, PatchConv, normal
from glamm_jax.nn.mlp import activate
from glamm_jax.nn.norm import LayerNorm

NORM_EPS = 1e-6
# Rows of `point_embeddings`.
BACKGROUND, FOREGROUND, TOP_LEFT, BOTTOM_RIGHT = range(4)
NOT_A_POINT = -1


class ConstantBuffer(nnx.Variable):
    """A constant of the checkpoint: saved and loaded, never trained."""


def encode_positions(
    positions: Float[Array, "*batch 2"], frequencies: Float[Array, "2 half"]
) -> Float[Array, "*batch c"]:
    """Sines, then cosines, of random directions; positions are x, y in [0, 1]. Float32."""
    angles = 2 * math.pi * ((2 * positions.astype(jnp.float32) - 1) @ frequencies)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class MaskEmbedding(nnx.Module):
    """Mask logits down to the grid: two convolutions of stride 2 and a 1x1 one."""

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
    """Prompts of m masks at once; every mask has the same kinds and number of prompts."""

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
        """Sparse embeddings (points, box corners, text, in this order) and dense ones.

        Args:
            points, boxes: x, y in pixels of the padded canvas; boxes are x0 y0 x1 y1.
            labels: 1 foreground, 0 background, -1 not a point; with `points`, always.
            text: taken as they are, each a prompt of its own (trap 23).
            masks: logits of side `SAMConfig.mask_size`.

        The dtype is that of `text` or `masks`, else float32. Without any prompt, m is 1.

        Raises: ValueError when points come without labels, or prompts differ in number.
        Source: model/SAM/modeling/prompt_encoder.py. As there, points without a box are followed by
            one more that says "not a point"; text alone is not.
        """
        given = [x for x in (points, boxes, text, masks) if x is not None]
        if len({x.shape[0] for x in given}) > 1:
            raise ValueError(f"prompts of different masks: {[x.shape for x in given]}")
        if (points is None) != (labels is None):
            raise ValueError("points and labels come together")
        num_masks = given[0].shape[0] if given else 1
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
        """The encoding of every cell's centre, float32."""
        centres = (jnp.arange(self.grid_size, dtype=jnp.float32) + 0.5) / self.grid_size
        x, y = jnp.meshgrid(centres, centres)
        return encode_positions(jnp.stack([x, y], axis=-1), self.frequencies[...])

    def _encode_pixels(self, points: Float[Array, "m p 2"]) -> Float[Array, "m p c"]:
        """Pixels are addressed by their centres."""
        positions = (points.astype(jnp.float32) + 0.5) / self.image_size
        return encode_positions(positions, self.frequencies[...])

    def _embed_points(
        self, points: Float[Array, "m p 2"], labels: Int[Array, "m p"], *, pad: bool
    ) -> Float[Array, "m p2 c"]:
        if pad:
            points = jnp.pad(points, ((0, 0), (0, 1), (0, 0)))
            labels = jnp.pad(labels, ((0, 0), (0, 1)), constant_values=NOT_A_POINT)
        encoded, kind = self._encode_pixels(points), labels[..., None]
        background, foreground = self.point_embeddings[...][: FOREGROUND + 1, None, None]
        learned = jnp.where(kind == FOREGROUND, foreground, 0)
        learned = jnp.where(kind == BACKGROUND, background, learned)
        not_a_point = self.not_a_point[...][None, None]
        return jnp.where(kind == NOT_A_POINT, not_a_point, encoded + learned)

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
