"""LLaMA / Vicuna decoder with stacked layers, LoRA and an explicit key-value cache.

The same layers run in three modes: `__call__` over complete sequences (training, teacher forcing),
`prefill`, which also fills a `KVCache`, and `step`, one token per row against the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.config import PROJECTIONS, LlamaConfig, LoRAConfig
from glamm_jax.models.kv_cache import KVCache, write_slice
from glamm_jax.nn.attention import Segments, attend_one, attention
from glamm_jax.nn.layer_stack import decode_blocks, scan_blocks
from glamm_jax.nn.linear import Embedding, Linear
from glamm_jax.nn.lora import attach
from glamm_jax.nn.norm import RMSNorm
from glamm_jax.nn.rope import rotary_tables, rotate
from glamm_jax.parallel import constrain

Rotary = tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]]
Attend = Callable[[Array, Array, Array], Array]


class RecordingAttention:
    """An `Attend` that remembers the keys and values it was given."""

    def __init__(self, attend: Attend):
        self.attend = attend

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        self.keys_values = (k, v)
        return self.attend(q, k, v)

    def heads_first(self) -> tuple[Float[Array, "1 b n t k"], Float[Array, "1 b n t k"]]:
        """Keys and values as one layer of a `KVCache`."""
        keys, values = (x.transpose(0, 2, 1, 3)[None] for x in self.keys_values)
        return keys, values


class LlamaBlock(nnx.Module):
    """Decoder layers, stacked. The seven projections carry the checkpoints' names."""

    def __init__(
        self,
        config: LlamaConfig,
        lora: LoRAConfig | None,
        *,
        rngs: nnx.Rngs,
        stack: tuple[int, ...],
    ):
        dim, mlp_dim, eps = config.hidden_dim, config.mlp_dim, config.norm_eps

        def project(i: int, o: int, *axes: str) -> Linear:
            return Linear(i, o, axes, rngs=rngs, use_bias=False, stack=stack)

        self.input_norm = RMSNorm(dim, eps, stack=stack)
        self.q_proj = project(dim, dim, "embed", "heads")
        self.k_proj = project(dim, dim, "embed", "heads")
        self.v_proj = project(dim, dim, "embed", "heads")
        self.o_proj = project(dim, dim, "heads", "embed")
        self.post_attention_norm = RMSNorm(dim, eps, stack=stack)
        self.gate_proj = project(dim, mlp_dim, "embed", "mlp")
        self.up_proj = project(dim, mlp_dim, "embed", "mlp")
        self.down_proj = project(mlp_dim, dim, "mlp", "embed")
        self.num_heads = config.num_heads
        if lora is not None:
            attach({name: getattr(self, name) for name in PROJECTIONS}, lora, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        rotary: Rotary,
        attend: Attend,
        dropout_key: Array | None = None,
    ) -> Float[Array, "b t d"]:
        """`attend` maps rotated queries, rotated keys and values to the attended values."""
        keys: dict[str, Array | None] = dict.fromkeys(PROJECTIONS)
        if dropout_key is not None:
            keys = dict(zip(PROJECTIONS, jax.random.split(dropout_key, 7), strict=True))
        h = self.input_norm(x)
        # Spelled out: -1 has no meaning where there is no row.
        heads = (*h.shape[:2], self.num_heads, h.shape[2] // self.num_heads)
        q = rotate(self.q_proj(h, keys["q_proj"]).reshape(heads), *rotary)
        k = rotate(self.k_proj(h, keys["k_proj"]).reshape(heads), *rotary)
        v = self.v_proj(h, keys["v_proj"]).reshape(heads)
        x = x + self.o_proj(attend(q, k, v).reshape(x.shape), keys["o_proj"])
        h = self.post_attention_norm(x)
        gate = jax.nn.silu(self.gate_proj(h, keys["gate_proj"]))
        hidden = constrain(gate * self.up_proj(h, keys["up_proj"]), "batch", "sequence", "mlp")
        x = x + self.down_proj(hidden, keys["down_proj"])
        return constrain(x, "batch", "sequence", None)


class Llama(nnx.Module):
    """The language model. Inputs are embeddings: images and regions are fused in before."""

    def __init__(self, config: LlamaConfig, lora: LoRAConfig | None = None, *, rngs: nnx.Rngs):
        self.config = config
        dim, vocab = config.hidden_dim, config.vocab_size
        self.embed_tokens = Embedding(vocab, dim, ("vocab", "embed"), rngs=rngs)
        self.layers = LlamaBlock(config, lora, rngs=rngs, stack=(config.num_layers,))
        self.norm = RMSNorm(dim, config.norm_eps)
        self.lm_head = Linear(dim, vocab, ("embed", "vocab"), rngs=rngs, use_bias=False)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        positions: Int[Array, "b t"],
        token_valid: Bool[Array, "b t"],
        dropout_key: Array | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "b t d"]:
        """Hidden states after the final norm; token i sees the valid tokens 0..i, and in packed
        rows those of its segment and of its prefix alone."""
        return self.norm(self.run_layers(x, positions, token_valid, dropout_key, segments))

    def run_layers(
        self,
        x: Float[Array, "b t d"],
        positions: Int[Array, "b t"],
        token_valid: Bool[Array, "b t"],
        dropout_key: Array | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "b t d"]:
        """The residual stream after the last layer, before the final norm."""
        rotary = self._rotary(positions, x.dtype)

        def attend(q: Array, k: Array, v: Array) -> Array:
            return attention(q, k, v, causal=True, key_valid=token_valid, segments=segments)

        def layer(block: LlamaBlock, x: Array, index: Int[Array, ""]) -> Array:
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return block(x, rotary, attend, key)

        indices = jnp.arange(self.config.num_layers)
        return scan_blocks(layer, self.layers, x, indices, remat=self.config.remat)

    def prefill(
        self,
        x: Float[Array, "b t d"],
        positions: Int[Array, "b t"],
        token_valid: Bool[Array, "b t"],
        cache: KVCache,
    ) -> tuple[Float[Array, "b t d"], KVCache]:
        """As `__call__`, and the cache with its first t slots filled."""
        rotary = self._rotary(positions, x.dtype)

        def layer(block: LlamaBlock, carry: tuple, index: Int[Array, ""]) -> tuple:
            x, keys, values = carry
            attend = RecordingAttention(partial(attention, causal=True, key_valid=token_valid))
            x = block(x, rotary, attend)
            k, v = attend.heads_first()
            start = (index, 0, 0, 0, 0)
            return x, write_slice(keys, k, start), write_slice(values, v, start)

        carry = (x, cache.keys, cache.values)
        indices = jnp.arange(self.config.num_layers)
        x, keys, values = scan_blocks(layer, self.layers, carry, indices)
        valid = jax.lax.dynamic_update_slice(cache.valid, token_valid, (0, 0))
        return self.norm(x), KVCache(keys, values, valid)

    def step(
        self,
        x: Float[Array, "b 1 d"],
        positions: Int[Array, "b 1"],
        slot: Int[Array, ""],
        cache: KVCache,
    ) -> tuple[Float[Array, "b 1 d"], KVCache]:
        """One token a row: it sees every valid slot and itself, and is written to `slot`.

        The layers only read the cache; it is written once, behind them.
        """
        rotary = self._rotary(positions, x.dtype)

        def layer(block: LlamaBlock, carry: tuple, item: tuple) -> tuple:
            (x, new_keys, new_values), (index, keys, values) = carry, item
            attend = RecordingAttention(
                partial(attend_one, keys=keys, values=values, key_valid=cache.valid)
            )
            x = block(x, rotary, attend)
            k, v = attend.heads_first()
            start = (index, 0, 0, 0, 0)
            return x, write_slice(new_keys, k, start), write_slice(new_values, v, start)

        new = jnp.zeros_like(cache.keys[:, :, :, :1])
        per_layer = (jnp.arange(self.config.num_layers), cache.keys, cache.values)
        x, new_keys, new_values = decode_blocks(layer, self.layers, (x, new, new), per_layer)
        keys = write_slice(cache.keys, new_keys, (0, 0, 0, slot, 0))
        values = write_slice(cache.values, new_values, (0, 0, 0, slot, 0))
        return self.norm(x), KVCache(keys, values, cache.valid.at[:, slot].set(True))

    def logits(self, hidden: Float[Array, "*b d"]) -> Float[Array, "*b v"]:
        """Scores of the vocabulary, float32."""
        return self.lm_head(hidden).astype(jnp.float32)

    def _rotary(self, positions: Int[Array, "b t"], dtype: jnp.dtype) -> Rotary:
        return rotary_tables(positions, self.config.head_dim, self.config.rope_theta, dtype)
