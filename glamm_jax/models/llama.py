"""LLaMA decoder with stacked layers, grouped-query attention, LoRA and an explicit key-value cache.

The same layers run in three modes: `__call__` over complete sequences (training, teacher forcing),
`prefill`, which also fills a `KVCache`, and `decode_step`, one token per row against the cache.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.config import PROJECTIONS, LlamaConfig, LoRAConfig
from glamm_jax.models.kv_cache import KVCache, write_rows, write_slice
from glamm_jax.nn.attention import Segments, attention, decode_attention
from glamm_jax.nn.layer_stack import scan_blocks, scan_blocks_for_decoding
from glamm_jax.nn.linear import Embedding, Linear, linear
from glamm_jax.nn.lora import attach
from glamm_jax.nn.norm import RMSNorm
from glamm_jax.nn.rope import apply_rotary, rotary_tables
from glamm_jax.parallel import constrain, num_shards

NO_PROBABILITY = -1e30  # logit of what pads the vocabulary

Rotary = tuple[Float[Array, "b t 1 half"], Float[Array, "b t 1 half"]]
AttentionFn = Callable[[Array, Array, Array], Array]


class RecordingAttention:
    """An `AttentionFn` that also records the keys and values of its call."""

    def __init__(self, attention_fn: AttentionFn):
        self.attention_fn = attention_fn

    def __call__(self, q: Array, k: Array, v: Array) -> Array:
        self.keys_values = (k, v)
        return self.attention_fn(q, k, v)

    def cache_layer(self) -> tuple[Float[Array, "1 b n t k"], Float[Array, "1 b n t k"]]:
        """Return the keys and values in the layout of one layer of a `KVCache`."""
        keys, values = (x.transpose(0, 2, 1, 3)[None] for x in self.keys_values)
        return keys, values


def _read_layer(
    x: Float[Array, "l b n s k"], index: Int[Array, ""], num_slots: int
) -> Float[Array, "b n s2 k"]:
    """Return the first slots of one layer; the others are never read."""
    size = (1, *x.shape[1:3], num_slots, x.shape[4])
    return jax.lax.dynamic_slice(x, (index, 0, 0, 0, 0), size)[0]


class LlamaBlock(nnx.Module):
    """A stack of decoder layers. The seven projections have the names of the checkpoints."""

    def __init__(
        self,
        config: LlamaConfig,
        lora: LoRAConfig | None,
        *,
        rngs: nnx.Rngs,
        stack: tuple[int, ...],
    ):
        dim, eps = config.hidden_dim, config.norm_eps

        def projection(name: str, *axes: str) -> Linear:
            dims = config.projection_dims(name)
            return Linear(*dims, axes, rngs=rngs, use_bias=False, stack=stack)

        self.input_norm = RMSNorm(dim, eps, stack=stack)
        self.q_proj = projection("q_proj", "embed", "heads")
        self.k_proj = projection("k_proj", "embed", "heads")
        self.v_proj = projection("v_proj", "embed", "heads")
        self.o_proj = projection("o_proj", "heads", "embed")
        self.post_attention_norm = RMSNorm(dim, eps, stack=stack)
        self.gate_proj = projection("gate_proj", "embed", "mlp")
        self.up_proj = projection("up_proj", "embed", "mlp")
        self.down_proj = projection("down_proj", "mlp", "embed")
        self.query_shape = (config.num_heads, config.head_dim)
        self.key_shape = (config.kv_heads, config.head_dim)
        if lora is not None:
            attach({name: getattr(self, name) for name in PROJECTIONS}, lora, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        rotary: Rotary,
        attention_fn: AttentionFn,
        dropout_key: Array | None = None,
    ) -> Float[Array, "b t d"]:
        """Apply one layer.

        Args:
            x: the residual stream.
            rotary: tables from `rotary_tables`.
            attention_fn: maps rotated queries, rotated keys and values to the attention's output.
            dropout_key: for the dropout of LoRA adapters; None: no dropout.
        """
        keys: dict[str, Array | None] = dict.fromkeys(PROJECTIONS)
        if dropout_key is not None:
            keys = dict(zip(PROJECTIONS, jax.random.split(dropout_key, 7), strict=True))
        h = self.input_norm(x)
        # Explicit sizes, since -1 is ambiguous for a batch without rows.
        query_heads, key_heads = ((*h.shape[:2], *s) for s in (self.query_shape, self.key_shape))
        q = apply_rotary(self.q_proj(h, keys["q_proj"]).reshape(query_heads), *rotary)
        k = apply_rotary(self.k_proj(h, keys["k_proj"]).reshape(key_heads), *rotary)
        v = self.v_proj(h, keys["v_proj"]).reshape(key_heads)
        width = self.query_shape[0] * self.query_shape[1]
        attended = attention_fn(q, k, v).reshape(*h.shape[:2], width)
        x = x + self.o_proj(attended, keys["o_proj"])
        h = self.post_attention_norm(x)
        gate = jax.nn.silu(self.gate_proj(h, keys["gate_proj"]))
        hidden = constrain(gate * self.up_proj(h, keys["up_proj"]), "batch", "sequence", "mlp")
        x = x + self.down_proj(hidden, keys["down_proj"])
        return constrain(x, "batch", "sequence", None)


class Llama(nnx.Module):
    """The language model. Its inputs are embeddings, with image and region features in place."""

    def __init__(self, config: LlamaConfig, lora: LoRAConfig | None = None, *, rngs: nnx.Rngs):
        self.config = config
        dim, vocab = config.hidden_dim, config.vocab_size
        self.embed_tokens = Embedding(vocab, dim, ("vocab", "embed"), rngs=rngs)
        self.layers = LlamaBlock(config, lora, rngs=rngs, stack=(config.num_layers,))
        self.norm = RMSNorm(dim, config.norm_eps)
        if not config.tie_embeddings:
            self.lm_head = Linear(dim, vocab, ("embed", "vocab"), rngs=rngs, use_bias=False)

    def __call__(
        self,
        x: Float[Array, "b t d"],
        positions: Int[Array, "b t"],
        token_valid: Bool[Array, "b t"],
        dropout_key: Array | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the hidden states after the final norm.

        Token i attends to the valid tokens 0..i; in packed rows only to those of its segment and
        of its prefix.

        Args:
            x: token embeddings.
            positions: rotary position of each token.
            token_valid: False tokens are never attended to.
            dropout_key: for the dropout of LoRA adapters; None: no dropout.
            segments: segments of packed rows.
        """
        return self.norm(self.run_layers(x, positions, token_valid, dropout_key, segments))

    def run_layers(
        self,
        x: Float[Array, "b t d"],
        positions: Int[Array, "b t"],
        token_valid: Bool[Array, "b t"],
        dropout_key: Array | None = None,
        segments: Segments | None = None,
    ) -> Float[Array, "b t d"]:
        """Return the residual stream after the last layer, before the final norm.

        The arguments are those of `__call__`.
        """
        rotary = self._rotary(positions, x.dtype)

        def masked_attention(q: Array, k: Array, v: Array) -> Array:
            return attention(q, k, v, causal=True, key_valid=token_valid, segments=segments)

        def layer(block: LlamaBlock, x: Array, index: Int[Array, ""]) -> Array:
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return block(x, rotary, masked_attention, key)

        indices = jnp.arange(self.config.num_layers)
        return scan_blocks(layer, self.layers, x, indices, remat=self.config.remat)

    def prefill(
        self,
        x: Float[Array, "b t d"],
        positions: Int[Array, "b t"],
        token_valid: Bool[Array, "b t"],
        cache: KVCache,
    ) -> tuple[Float[Array, "b t d"], KVCache]:
        """Run prompts of t tokens; fill the first t slots of the cache.

        Args:
            x: token embeddings.
            positions: rotary position of each token.
            token_valid: False tokens are never attended to.
            cache: an empty cache of at least t slots.

        Returns:
            The hidden states after the final norm, and the cache.
        """
        rotary = self._rotary(positions, x.dtype)

        def layer(block: LlamaBlock, carry: tuple, index: Int[Array, ""]) -> tuple:
            x, keys, values = carry
            recorder = RecordingAttention(partial(attention, causal=True, key_valid=token_valid))
            x = block(x, rotary, recorder)
            k, v = recorder.cache_layer()
            start = (index, 0, 0, 0, 0)
            return x, write_slice(keys, k, start), write_slice(values, v, start)

        carry = (x, cache.keys, cache.values)
        indices = jnp.arange(self.config.num_layers)
        x, keys, values = scan_blocks(layer, self.layers, carry, indices)
        valid = jax.lax.dynamic_update_slice(cache.valid, token_valid, (0, 0))
        return self.norm(x), KVCache(keys, values, valid)

    def decode_step(
        self,
        x: Float[Array, "b 1 d"],
        positions: Int[Array, "b 1"],
        slots: Int[Array, "b"],
        cache: KVCache,
        used_slots: int | None = None,
    ) -> tuple[Float[Array, "b 1 d"], KVCache]:
        """Run one token per row against the cache.

        The layers only read the cache; it is written once, after the last layer.

        Args:
            x: embeddings of the tokens.
            positions: rotary position of each token.
            slots: the slot of the cache that the token of each row is written to; a row whose slot
                does not exist writes nothing.
            cache: the previous tokens; each row attends to its valid slots and to its new token.
            used_slots: leading slots that are read; those behind them must not be valid. None: all.

        Returns:
            The hidden states after the final norm, and the cache with `slots` filled.
        """
        rotary = self._rotary(positions, x.dtype)
        valid = cache.valid[:, :used_slots]

        def layer(block: LlamaBlock, carry: tuple, index: Int[Array, ""]) -> tuple:
            x, new_keys, new_values = carry
            keys, values = (_read_layer(y, index, valid.shape[1]) for y in cache[:2])
            recorder = RecordingAttention(
                partial(decode_attention, keys=keys, values=values, key_valid=valid)
            )
            x = block(x, rotary, recorder)
            k, v = recorder.cache_layer()
            start = (index, 0, 0, 0, 0)
            return x, write_slice(new_keys, k, start), write_slice(new_values, v, start)

        empty = jnp.zeros_like(cache.keys[:, :, :, :1])
        carry = (x, empty, empty)
        indices = jnp.arange(self.config.num_layers)
        x, new_keys, new_values = scan_blocks_for_decoding(layer, self.layers, carry, indices)
        keys = write_rows(cache.keys, new_keys, slots)
        values = write_rows(cache.values, new_values, slots)
        valid = cache.valid | (jnp.arange(cache.valid.shape[1])[None] == slots[:, None])
        return self.norm(x), KVCache(keys, values, valid)

    def logits(
        self, hidden: Float[Array, "*b d"], *, pad_vocab: bool = False
    ) -> Float[Array, "*b v"]:
        """Return the logits of the vocabulary in float32.

        Args:
            hidden: hidden states after the final norm.
            pad_vocab: pad the vocabulary, in the program alone, to a length that the devices can
                divide; the padding has no probability. 32,007 ids are odd, so that every device of
                `tensor` would compute all of them.
        """
        padding = -self.config.vocab_size % num_shards("vocab") if pad_vocab else 0
        if padding:
            return self._padded_logits(hidden, padding)
        if self.config.tie_embeddings:
            table = self.embed_tokens.table[...].astype(hidden.dtype)
            return jnp.einsum("...d,vd->...v", hidden, table).astype(jnp.float32)
        return self.lm_head(hidden).astype(jnp.float32)

    def _padded_logits(self, hidden: Float[Array, "*b d"], padding: int) -> Float[Array, "*b v"]:
        tied = self.config.tie_embeddings
        kernel = self.embed_tokens.table[...].T if tied else self.lm_head.kernel[...]
        kernel = constrain(jnp.pad(kernel, ((0, 0), (0, padding))), "embed", "vocab")
        logits = constrain(
            linear(hidden, kernel), "batch", *(None,) * (hidden.ndim - 2), "vocab"
        ).astype(jnp.float32)
        ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
        return jnp.where(ids < self.config.vocab_size, logits, NO_PROBABILITY)

    def _rotary(self, positions: Int[Array, "b t"], dtype: jnp.dtype) -> Rotary:
        c = self.config
        return rotary_tables(positions, c.head_dim, c.rope_theta, dtype, c.rope_scaling)
