"""SAM's mask decoder, the paper's pixel decoder: tokens and image look at each other, twice.

Each mask token becomes the weights of a linear read-out of the enlarged image embedding.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from glamm_jax.config import SAMConfig
from glamm_jax.nn.attention import attention
from glamm_jax.nn.layer_stack import take_blocks
from glamm_jax.nn.linear import Linear, PatchConv, normal
from glamm_jax.nn.mlp import MLP, TransformerMLP, activate
from glamm_jax.nn.norm import LayerNorm
from glamm_jax.parallel import constrain

MaskChoice = Literal["single", "multiple", "all"]

TOKEN_NORM_EPS = 1e-5
MAP_NORM_EPS = 1e-6
DOWNSAMPLE = 2


class CrossAttention(nnx.Module):
    """Multi-head attention with its own width inside."""

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
        q, k, v = (self._heads(x) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        out = attention(q, k, v)
        return self.out_proj(out.reshape(*out.shape[:2], out.shape[2] * out.shape[3]))

    def _heads(self, x: Float[Array, "m t d"]) -> Float[Array, "m t n k"]:
        # Spelled out: -1 has no meaning where there is no mask.
        return x.reshape(*x.shape[:2], self.num_heads, x.shape[2] // self.num_heads)


class TwoWayBlock(nnx.Module):
    """Tokens attend to themselves, tokens to the image, an MLP, the image to the tokens."""

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
            # The tokens still are their own positions; they are replaced, not added to.
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
    """Two-way blocks, and a last look of the tokens at the image."""

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
    """The image embedding at four times the grid, an eighth as wide."""

    def __init__(self, dim: int, *, rngs: nnx.Rngs):
        self.conv1 = PatchConv(dim, dim // 4, 2, rngs=rngs, transposed=True)
        self.norm = LayerNorm(dim // 4, MAP_NORM_EPS)
        self.conv2 = PatchConv(dim // 4, dim // 8, 2, rngs=rngs, transposed=True)

    def __call__(self, x: Float[Array, "m s s c"]) -> Float[Array, "m s4 s4 c8"]:
        x = activate(self.norm(self.conv1(x)), "gelu")
        return activate(self.conv2(x), "gelu")


class MaskDecoder(nnx.Module):
    """Masks and their estimated IoU from image and prompt embeddings."""

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
        """Mask logits at four times the grid, and IoU estimates, of the chosen mask tokens.

        Args:
            image_embeddings: one a mask; the caller gathers them.
            choice: "single" is token 0, "multiple" the others, "all" all; only these are computed.

        Source: model/SAM/modeling/mask_decoder.py.
        """
        first, last = self._chosen(choice)
        m, s, _, c = image_embeddings.shape
        dtype = image_embeddings.dtype
        own = jnp.concatenate([self.iou_token[...], self.mask_tokens[...]]).astype(dtype)
        own = jnp.broadcast_to(own, (m, *own.shape))
        tokens = jnp.concatenate([own, sparse.astype(dtype)], axis=1)
        image = (image_embeddings + dense.astype(dtype)).reshape(m, s * s, c)
        positions = image_positions.astype(dtype).reshape(1, s * s, c)
        tokens, image = self.transformer(tokens, image, positions)
        weights = self._readouts(tokens[:, 1 + first : 1 + last], first, last)
        enlarged = self.upscaling(image.reshape(m, s, s, c))
        mask_logits = jnp.einsum("mkc,mhwc->mkhw", weights, enlarged)
        iou = self.iou_head(tokens[:, 0])[:, first:last]
        return constrain(mask_logits, "batch", None, None, None), iou

    def _chosen(self, choice: MaskChoice) -> tuple[int, int]:
        bounds = {"single": (0, 1), "multiple": (1, self.num_tokens), "all": (0, self.num_tokens)}
        if choice not in bounds:
            raise ValueError(f"no choice of masks {choice!r}: {sorted(bounds)}")
        return bounds[choice]

    def _readouts(
        self, tokens: Float[Array, "m k c"], first: int, last: int
    ) -> Float[Array, "m k c8"]:
        """Each token through the hypernetwork of its own."""
        graph, state = nnx.split(take_blocks(self.hypernetworks, first, last))
        apply = jax.vmap(lambda state, x: nnx.merge(graph, state)(x), in_axes=(0, 1), out_axes=1)
        return apply(state, tokens)
