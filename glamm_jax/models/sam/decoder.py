"""SAM's mask decoder, the paper's pixel decoder.

Mask tokens, prompt tokens and the image attend to each other in a two-way transformer. Each mask
token then becomes, through its hypernetwork, the weights of a linear map from the upscaled image
embedding to a mask.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import SAMConfig
from glamm_jax.nn.attention import attention
from glamm_jax.nn.initializers import normal
from glamm_jax.nn.layer_stack import slice_blocks
from glamm_jax.nn.linear import Linear, PatchConv
from glamm_jax.nn.mlp import MLP, TransformerMLP, activate
from glamm_jax.nn.norm import LayerNorm
from glamm_jax.parallel import constrain

MaskChoice = Literal["single", "multiple", "all"]

TOKEN_NORM_EPS = 1e-5
MAP_NORM_EPS = 1e-6
DOWNSAMPLE = 2


class CrossAttention(nnx.Module):
    """Multi-head attention with an inner width of dim // downsample."""

    def __init__(self, dim: int, num_heads: int, downsample: int = 1, *, rngs: nnx.Rngs):
        inner = dim // downsample
        self.q_proj = Linear(dim, inner, ("embed", "heads"), rngs=rngs)
        self.k_proj = Linear(dim, inner, ("embed", "heads"), rngs=rngs)
        self.v_proj = Linear(dim, inner, ("embed", "heads"), rngs=rngs)
        self.out_proj = Linear(inner, dim, ("heads", "embed"), rngs=rngs)
        self.num_heads = num_heads

    def __call__(
        self, q: Float[Array, "m t c"], k: Float[Array, "m s c"], v: Float[Array, "m s c"]
    ) -> Float[Array, "m t c"]:
        q, k, v = (self._split_heads(x) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        out = attention(q, k, v)
        return self.out_proj(out.reshape(*out.shape[:2], out.shape[2] * out.shape[3]))

    def _split_heads(self, x: Float[Array, "m t d"]) -> Float[Array, "m t n k"]:
        # Explicit sizes, since -1 is ambiguous without masks.
        return x.reshape(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)


class TwoWayBlock(nnx.Module):
    """Self-attention of tokens, token-to-image attention, MLP, image-to-token attention."""

    def __init__(self, config: SAMConfig, *, is_first: bool, rngs: nnx.Rngs):
        dim, heads = config.out_dim, config.decoder_heads
        self.self_attention = CrossAttention(dim, heads, rngs=rngs)
        self.norm1 = LayerNorm(dim, TOKEN_NORM_EPS)
        self.token_to_image = CrossAttention(dim, heads, DOWNSAMPLE, rngs=rngs)
        self.norm2 = LayerNorm(dim, TOKEN_NORM_EPS)
        self.mlp = TransformerMLP(dim, config.decoder_mlp_dim, "relu", rngs=rngs)
        self.norm3 = LayerNorm(dim, TOKEN_NORM_EPS)
        self.image_to_token = CrossAttention(dim, heads, DOWNSAMPLE, rngs=rngs)
        self.norm4 = LayerNorm(dim, TOKEN_NORM_EPS)
        self.is_first = is_first

    def __call__(
        self,
        tokens: Float[Array, "m n c"],
        image: Float[Array, "m p c"],
        token_positions: Float[Array, "m n c"],
        image_positions: Float[Array, "1 p c"],
    ) -> tuple[Float[Array, "m n c"], Float[Array, "m p c"]]:
        if self.is_first:
            # The tokens still equal their positions, so there is no residual connection.
            tokens = self.self_attention(tokens, tokens, tokens)
        else:
            q = tokens + token_positions
            tokens = tokens + self.self_attention(q, q, tokens)
        tokens = self.norm1(tokens)
        q, k = tokens + token_positions, image + image_positions
        tokens = self.norm2(tokens + self.token_to_image(q, k, image))
        tokens = self.norm3(tokens + self.mlp(tokens))
        q = tokens + token_positions
        return tokens, self.norm4(image + self.image_to_token(k, q, tokens))


class TwoWayTransformer(nnx.Module):
    """Two-way blocks, and a final attention of the tokens to the image."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        dim = config.out_dim
        self.layers = nnx.List(
            [TwoWayBlock(config, is_first=i == 0, rngs=rngs) for i in range(config.decoder_layers)]
        )
        self.final_attention = CrossAttention(dim, config.decoder_heads, DOWNSAMPLE, rngs=rngs)
        self.final_norm = LayerNorm(dim, TOKEN_NORM_EPS)

    def __call__(
        self,
        tokens: Float[Array, "m n c"],
        image: Float[Array, "m p c"],
        image_positions: Float[Array, "1 p c"],
    ) -> tuple[Float[Array, "m n c"], Float[Array, "m p c"]]:
        positions = tokens
        for layer in self.layers:
            tokens, image = layer(tokens, image, positions, image_positions)
        q = tokens + positions
        tokens = tokens + self.final_attention(q, image + image_positions, image)
        return self.final_norm(tokens), image


class Upscaling(nnx.Module):
    """Two transposed convolutions: four times the side of the grid, an eighth of the width."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.conv1 = PatchConv(dim, dim // 4, 2, rngs=rngs, transposed=True)
        self.norm = LayerNorm(dim // 4, MAP_NORM_EPS)
        self.conv2 = PatchConv(dim // 4, dim // 8, 2, rngs=rngs, transposed=True)

    def __call__(self, x: Float[Array, "m s s c"]) -> Float[Array, "m s4 s4 c8"]:
        x = activate(self.norm(self.conv1(x)), "gelu")
        return activate(self.conv2(x), "gelu")


class MaskDecoder(nnx.Module):
    """Mask logits and IoU estimates from image and prompt embeddings."""

    def __init__(self, config: SAMConfig, *, rngs: nnx.Rngs):
        dim, self.num_tokens = config.out_dim, config.num_multimasks + 1
        self.iou_token = nnx.Param(normal(rngs, (1, dim), 1.0), axes=(None, None))
        self.mask_tokens = nnx.Param(normal(rngs, (self.num_tokens, dim), 1.0), axes=(None, None))
        self.transformer = TwoWayTransformer(config, rngs=rngs)
        self.upscaling = Upscaling(dim, rngs=rngs)
        dims = (*(dim,) * config.hypernetwork_layers, dim // 8)
        self.hypernetworks = MLP(dims, "relu", rngs=rngs, stack=(self.num_tokens,))
        dims = (dim, *(config.iou_dim,) * (config.iou_layers - 1), self.num_tokens)
        self.iou_head = MLP(dims, "relu", rngs=rngs)

    def __call__(
        self,
        image_embeddings: Float[Array, "m s s c"],
        image_positions: Float[Array, "s s c"],
        sparse: Float[Array, "m n c"],
        dense: Float[Array, "m s s c"],
        choice: MaskChoice = "all",
    ) -> tuple[Float[Array, "m k s4 s4"], Float[Array, "m k"]]:
        """Predict masks from image and prompt embeddings.

        Args:
            image_embeddings: one per mask; the caller gathers them.
            image_positions: `PromptEncoder.dense_positions`.
            sparse: prompt embeddings that are tokens.
            dense: prompt embeddings that are added to the image embeddings.
            choice: which mask tokens to compute: "single": token 0; "multiple": the others.

        Returns:
            Mask logits at four times the side of the grid, and IoU estimates, of those tokens.

        Raises:
            ValueError: the choice does not exist.

        Source: model/SAM/modeling/mask_decoder.py.
        """
        bounds = {"single": (0, 1), "multiple": (1, self.num_tokens), "all": (0, self.num_tokens)}
        if choice not in bounds:
            raise ValueError(f"unknown choice of masks {choice!r}: choose from {sorted(bounds)}")
        first, last = bounds[choice]
        m, s, _, c = image_embeddings.shape
        dtype = image_embeddings.dtype
        output_tokens = jnp.concatenate([self.iou_token[...], self.mask_tokens[...]]).astype(dtype)
        output_tokens = jnp.broadcast_to(output_tokens, (m, *output_tokens.shape))
        tokens = jnp.concatenate([output_tokens, sparse.astype(dtype)], axis=1)
        image = (image_embeddings + dense.astype(dtype)).reshape(m, s * s, c)
        positions = image_positions.astype(dtype).reshape(1, s * s, c)
        tokens, image = self.transformer(tokens, image, positions)
        weights = self._mask_weights(tokens[:, 1 + first : 1 + last], first, last)
        upscaled = self.upscaling(image.reshape(m, s, s, c))
        mask_logits = jnp.einsum("mkc,mhwc->mkhw", weights, upscaled)
        iou = self.iou_head(tokens[:, 0])[:, first:last]
        return constrain(mask_logits, "batch", None, None, None), iou

    def _mask_weights(
        self, tokens: Float[Array, "m k c"], first: int, last: int
    ) -> Float[Array, "m k c8"]:
        """Apply to each of the mask tokens first to last - 1 its own hypernetwork."""
        graph, state = nnx.split(slice_blocks(self.hypernetworks, first, last))
        apply = jax.vmap(lambda state, x: nnx.merge(graph, state)(x), in_axes=(0, 1), out_axes=1)
        return apply(state, tokens)
