"""CLIP's vision transformer: the global image encoder.

Only the layers up to the last hidden state that is used exist. For ViT-L/14 the projector uses
hidden state 23 and the region encoder 14, 17, 20 and 23 of 24, so the model has 23 layers, and
neither the last layer nor the final norm (weights/clip.py carries their tensors through).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from glamm_jax.config import CLIPConfig
from glamm_jax.nn.attention import attention
from glamm_jax.nn.initializers import normal
from glamm_jax.nn.layer_stack import scan_blocks
from glamm_jax.nn.linear import Linear, PatchConv
from glamm_jax.nn.mlp import TransformerMLP
from glamm_jax.nn.norm import LayerNorm
from glamm_jax.parallel import constrain


class CLIPBlock(nnx.Module):
    """A stack of pre-norm transformer layers."""

    def __init__(self, config: CLIPConfig, *, rngs: nnx.Rngs, stack: tuple[int, ...]):
        dim = config.hidden_dim
        into_heads = lambda: Linear(dim, dim, ("embed", "heads"), rngs=rngs, stack=stack)  # noqa: E731
        self.norm1 = LayerNorm(dim, config.norm_eps, stack=stack)
        self.q_proj, self.k_proj, self.v_proj = into_heads(), into_heads(), into_heads()
        self.out_proj = Linear(dim, dim, ("heads", "embed"), rngs=rngs, stack=stack)
        self.norm2 = LayerNorm(dim, config.norm_eps, stack=stack)
        self.mlp = TransformerMLP(dim, config.mlp_dim, config.activation, rngs=rngs, stack=stack)
        self.num_heads = config.num_heads

    def __call__(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        h = self.norm1(x)
        # Explicit sizes, since -1 is ambiguous for a batch without images.
        heads = (*h.shape[:2], self.num_heads, h.shape[2] // self.num_heads)
        q, k, v = (p(h).reshape(heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.out_proj(attention(q, k, v).reshape(x.shape))
        x = x + self.mlp(self.norm2(x))
        return constrain(x, "batch", None, None)


class CLIPVision(nnx.Module):
    """The vision transformer, from pixels to the hidden states that the model uses.

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
        self.layers = CLIPBlock(config, rngs=rngs, stack=(config.num_computed_layers,))

    def embed(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "b n d"]:
        """Compute hidden state 0: class and patch embeddings plus positions, pre-layernorm."""
        patches = self.patch_embedding(pixels)
        shape = (patches.shape[0], self.config.num_patches, patches.shape[-1])
        patches = patches.reshape(shape)
        token = self.class_embedding[...].astype(pixels.dtype)
        token = jnp.broadcast_to(token[None, None], (patches.shape[0], 1, token.shape[0]))
        x = jnp.concatenate([token, patches], axis=1)
        x = x + self.position_embedding[...].astype(x.dtype)[None]
        return constrain(self.pre_norm(x), "batch", None, None)

    def __call__(self, pixels: Float[Array, "b h w 3"]) -> Float[Array, "k b n d"]:
        """Return the hidden states `config.output_states`, in that order; token 0 is CLS.

        Args:
            pixels: normalized images of side `config.image_size`.
        """
        output_states = self.config.output_states
        # Every layer writes its output to the slot of its hidden state; the last slot is discarded.
        slots = np.full(self.config.num_computed_layers + 1, len(output_states), np.int32)
        slots[list(output_states)] = np.arange(len(output_states))
        x = self.embed(pixels)
        states = jnp.zeros((len(output_states) + 1, *x.shape), x.dtype).at[slots[0]].set(x)

        def layer(
            block: CLIPBlock, carry: tuple[Array, Array], slot: Int[Array, ""]
        ) -> tuple[Array, Array]:
            x, states = carry
            x = block(x)
            return x, jax.lax.dynamic_update_index_in_dim(states, x, slot, 0)

        _, states = scan_blocks(layer, self.layers, (x, states), jnp.asarray(slots[1:]))
        return states[:-1]

    def patch_features(self, states: Float[Array, "k b n d"], layer: int) -> Float[Array, "b p d"]:
        """Return the patches of one hidden state, without CLS.

        Args:
            states: result of `__call__`.
            layer: index of the hidden state; negative from the end.
        """
        index = self.config.output_states.index(self.config.hidden_state_index(layer))
        return states[index][:, 1:]
