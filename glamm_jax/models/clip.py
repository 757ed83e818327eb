"""CLIP's vision transformer: the global image encoder.

Only the layers below the last hidden state that somebody reads exist: for ViT-L/14 the projector
reads hidden state 23 and the region encoder 14, 17, 20 and 23 of 24, so 23 layers are computed and
neither the last one nor the final norm is held (weights/clip.py carries them through).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from glamm_jax.config import CLIPConfig
from glamm_jax.nn.attention import attention
from glamm_jax.nn.layer_stack import scan_blocks
from glamm_jax.nn.linear import Linear, PatchConv, normal
from glamm_jax.nn.mlp import TransformerMLP
from glamm_jax.nn.norm import LayerNorm
from glamm_jax.parallel import constrain


class CLIPBlock(nnx.Module):
    """Pre-norm transformer layers, stacked."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs, stack: tuple[int, ...]):
        dim = config.hidden_dim
        into = lambda: Linear(dim, dim, ("embed", "heads"), rngs=rngs, stack=stack)  # noqa: E731
        self.norm1 = LayerNorm(dim, config.norm_eps, stack=stack)
        self.q_proj, self.k_proj, self.v_proj = into(), into(), into()
        self.out_proj = Linear(dim, dim, ("heads", "embed"), rngs=rngs, stack=stack)
        self.norm2 = LayerNorm(dim, config.norm_eps, stack=stack)
        self.mlp = TransformerMLP(dim, config.mlp_dim, config.activation, rngs=rngs, stack=stack)
        self.num_heads = config.num_heads

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        h = self.norm1(x)
        # Spelled out: -1 has no meaning where there is no image.
        heads = (*h.shape[:2], self.num_heads, h.shape[2] // self.num_heads)
        q, k, v = (p(h).reshape(heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.out_proj(attention(q, k, v).reshape(x.shape))
        x = x + self.mlp(self.norm2(x))
        return constrain(x, "batch", None, None)


class CLIPVision(nnx.Module):
    """Images to the hidden states that somebody reads.

    Source: model/llava/model/multimodal_encoder/clip_encoder.py over transformers' CLIP.
    """

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs):
        dim = config.hidden_dim
        self.config = config
        self.patch_embedding = PatchConv(3, dim, config.patch_size, rngs=rngs, use_bias=False)
        self.class_embedding = nnx.Param(normal(rngs, (dim,), dim**-0.5), axes=(None,))
        self.position_embedding = nnx.Param(
            normal(rngs, (config.num_patches + 1, dim), dim**-0.5), axes=(None, "embed")
        )
        self.pre_norm = LayerNorm(dim, config.norm_eps)
        self.layers = CLIPBlock(config, rngs=rngs, stack=(config.depth,))

    def embed(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Hidden state 0: class and patch embeddings with positions, after the pre-layernorm."""
        patches = self.patch_embedding(pixels)
        shape = (patches.shape[0], self.config.num_patches, patches.shape[-1])
        patches = patches.reshape(shape)
        token = self.class_embedding[...].astype(pixels.dtype)
        token = jnp.broadcast_to(token[None, None], (patches.shape[0], 1, token.shape[0]))
        x = jnp.concatenate([token, patches], axis=1)
        x = x + self.position_embedding[...].astype(x.dtype)[None]
        return constrain(self.pre_norm(x), "batch", None, None)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "k b n d"]:
        """The hidden states `config.read_states`, in that order; token 0 is CLS."""
        read = self.config.read_states
        # Every layer writes its output to the slot of its state; the last slot is for the unread.
        slots = np.full(self.config.depth + 1, len(read), np.int32)
        slots[list(read)] = np.arange(len(read))
        x = self.embed(pixels)
        states = jnp.zeros((len(read) + 1, *x.shape), x.dtype).at[slots[0]].set(x)

        def layer(
            block: CLIPBlock, carry: tuple[Array, Array], slot: Int[Array, ""]
        ) -> tuple[Array, Array]:
            x, states = carry
            x = block(x)
            return x, jax.lax.dynamic_update_index_in_dim(states, x, slot, 0)

        _, states = scan_blocks(layer, self.layers, (x, states), jnp.asarray(slots[1:]))
        return states[:-1]

    def state(self, states: Float[Array, "k b n d"], layer: int) -> Float[Array, "b p d"]:
        """The patches of one hidden state, counted from either end, without CLS."""
        index = self.config.read_states.index(self.config.hidden_state(layer))
        return states[index][:, 1:]
