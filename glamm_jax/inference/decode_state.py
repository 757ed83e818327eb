"""The state of decoding: its allocation, and rows that replace those of another state."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.config import GLaMMConfig
from glamm_jax.inference.compiled import CompiledFunction
from glamm_jax.inference.sampling import Sampling
from glamm_jax.models.kv_cache import KVCache, as_bits
from glamm_jax.models.text_model import TextModelConfig
from glamm_jax.parallel import constrain


class DecodeState(NamedTuple):
    """The state between two tokens. `decode` and `insert` donate the state that they receive."""

    cache: KVCache
    prompt_hidden: Float[Array, "b t d"]
    tokens: Int[Array, "b n"]  # the generated tokens; pad after the end of a row
    token_hidden: Float[Array, "b n d"]  # the hidden state that emitted each of them
    token_log_prob: Float[Array, "b n"]  # of each, by the model at temperature 1
    prompt_lengths: Int[Array, "b"]  # in tokens, image patches included; 0: unused row
    first_slots: Int[Array, "b"]  # slot of the cache for the first generated token
    finished: Bool[Array, "b"]  # at the end token or the limit, or unused
    num_tokens: Int[Array, "b"]  # generated so far
    max_tokens: Int[Array, "b"]  # limit of num_tokens
    sampling: Sampling


class StateShape(NamedTuple):
    """The sizes of a `DecodeState`.

    Attributes:
        rows: that are decoded together.
        prompt_slots: longest prompt, padding included.
        answer_slots: longest answer.
        cache_slots: tokens of a row, prompt and answer together; at least `prompt_slots`.
    """

    rows: int
    prompt_slots: int
    answer_slots: int
    cache_slots: int


def allocate(
    config: GLaMMConfig | TextModelConfig, shape: StateShape, dtype: DTypeLike
) -> DecodeState:
    """Return a state without any row in use.

    Args:
        config: of the model.
        shape: of the state.
        dtype: of the cache and of the hidden states.
    """
    rows, prompt_slots, answer_slots, cache_slots = shape
    width, none = config.llama.hidden_dim, jnp.zeros(rows, jnp.int32)
    return DecodeState(
        cache=sharded_cache(KVCache.empty(config.llama, rows, cache_slots, dtype)),
        prompt_hidden=jnp.zeros((rows, prompt_slots, width), dtype),
        tokens=jnp.full((rows, answer_slots), config.tokens.pad),
        token_hidden=jnp.zeros((rows, answer_slots, width), dtype),
        token_log_prob=jnp.zeros((rows, answer_slots)),
        prompt_lengths=none,
        first_slots=none,
        finished=jnp.ones(rows, bool),
        num_tokens=none,
        max_tokens=none,
        sampling=Sampling(jnp.zeros(rows), jnp.ones(rows), jnp.zeros(rows, jnp.uint32)),
    )


def sharded_cache(cache: KVCache) -> KVCache:
    """Shard the rows and heads of a cache over the mesh, if there is one."""
    axes = ("layers", "batch", "heads", None, None)
    return cache._replace(keys=constrain(cache.keys, *axes), values=constrain(cache.values, *axes))


@partial(CompiledFunction, static_argnames=("config", "shape"))
def empty_state(*, config: GLaMMConfig, shape: StateShape) -> DecodeState:
    """Return `allocate` in the dtype of the model, each device allocating its part."""
    return allocate(config, shape, jnp.dtype(config.compute_dtype))


@partial(CompiledFunction, static_argnames=("answer_slots", "pad_token"))
def with_room(state: DecodeState, *, answer_slots: int, pad_token: int) -> DecodeState:
    """Return a prefilled state with room for more tokens; no row changes its place.

    Args:
        state: with room for one token.
        answer_slots: longest answer.
        pad_token: what follows the end of an answer.
    """
    more = answer_slots - state.tokens.shape[1]

    def pad(x: Array, axis: int, value: int = 0) -> Array:
        widths = [(0, more if i == axis else 0) for i in range(x.ndim)]
        return jnp.pad(x, widths, constant_values=value)

    cache = KVCache(pad(state.cache.keys, 3), pad(state.cache.values, 3), pad(state.cache.valid, 1))
    return state._replace(
        cache=sharded_cache(cache),
        tokens=pad(state.tokens, 1, pad_token),
        token_hidden=pad(state.token_hidden, 1),
        token_log_prob=pad(state.token_log_prob, 1),
    )


@partial(CompiledFunction, donate_argnames="state")
def insert_rows(state: DecodeState, prefilled: DecodeState, rows: Int[Array, "r"]) -> DecodeState:
    """Copy the rows of one state to rows of another one.

    Args:
        state: the state to write to.
        prefilled: the rows to write, with room for at most as many tokens.
        rows: of `state`, one for each row of `prefilled`; a row that does not exist is left out.
    """
    prompt_slots = prefilled.prompt_hidden.shape[1]
    valid = prefilled.cache.valid[:, :prompt_slots]

    def write(x: Array, new: Array, axis: int = 0) -> Array:
        """Write along the rows; along the other axes, `new` may be shorter."""
        index = (*(slice(n) for n in new.shape[:axis]), rows)
        index = (*index, *(slice(n) for n in new.shape[axis + 1 :]))
        written = as_bits(x).at[index].set(as_bits(new), mode="drop")
        return jax.lax.bitcast_convert_type(written, x.dtype)

    keys, values = (
        write(x, new[..., :prompt_slots, :], axis=1)
        for x, new in zip(state.cache[:2], prefilled.cache[:2], strict=True)
    )
    slots = state.cache.valid.shape[1]
    all_valid = jnp.pad(valid, ((0, 0), (0, slots - prompt_slots)))
    first_slots = prompt_slots - jnp.flip(valid, 1).argmax(1).astype(jnp.int32)
    names = ("prompt_hidden", "tokens", "token_hidden", "token_log_prob", "prompt_lengths")
    names += ("finished", "num_tokens", "max_tokens")
    return state._replace(
        cache=sharded_cache(
            KVCache(keys, values, state.cache.valid.at[rows].set(all_valid, mode="drop"))
        ),
        first_slots=write(state.first_slots, first_slots),
        sampling=jax.tree.map(write, state.sampling, prefilled.sampling),
        **{name: write(getattr(state, name), getattr(prefilled, name)) for name in names},
    )
