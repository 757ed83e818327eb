"""Grounded generation: three jitted programs over an explicit state.

    state = generator.prefill(batch, room=64)        # prompt through the model, first token chosen
    state = generator.decode(state, max_steps=63)    # a while-loop against the key-value cache
    masks = generator.finish(batch, state)           # every [SEG] to a mask, on the device

The mask of a [SEG] comes from the hidden state that EMITTED it (trap 2), which a cache gives for
free: the original runs image, regions and the whole sequence again for every token (trap 5).
Rows are independent: each stops at its own end, padding is seen by nobody.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.config import GLaMMConfig, TokenConfig
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.llama import KVCache
from glamm_jax.nn.resize import postprocess_masks
from glamm_jax.types import Batch


class ContextError(ValueError):
    """Prompts and their answers do not fit the positions that the model knows."""


class DecodeState(NamedTuple):
    """Everything between two tokens."""

    cache: KVCache
    prompt_hidden: Float[Array, "b t d"]
    tokens: Int[Array, "b n"]  # generated so far, pad behind a row's end
    emitting: Float[Array, "b n d"]  # the hidden state that chose each of them
    lengths: Int[Array, "b"]  # tokens of each prompt, image patches included
    done: Bool[Array, "b"]
    count: Int[Array, ""]  # tokens chosen so far in every row


class SegMasks(NamedTuple):
    """Masks of one call, row by row, prompt before answer, in order of their [SEG]."""

    rows: np.ndarray  # int[m] the row of each mask
    steps: np.ndarray  # int[m] the generated token it belongs to, or -1 for a [SEG] of the prompt
    logits: Float[Array, "m h w"]  # at the original sizes, top left in a bucket; > 0 is the mask
    iou: Float[Array, "m"]  # the decoder's estimate of the mask's quality


class Generator:
    """A model and its compiled programs. Greedy decoding.

    `tokens` names the [SEG] and the end token; the model's own unless given.
    """

    def __init__(self, model: GLaMM, tokens: TokenConfig | None = None):
        self.config: GLaMMConfig = model.config
        self.tokens = tokens or model.config.tokens
        self.graph, self.state = nnx.split(model)

    def prefill(self, batch: Batch, room: int) -> DecodeState:
        """Run the prompts, choose each row's first token; `room` tokens can be generated.

        Raises: ContextError when there is no room, or more than the model has positions for.
        """
        slots, context = batch.token_ids.shape[1], self.config.llama.max_positions
        if room < 1 or slots + room > context:
            raise ContextError(
                f"room for {room} tokens behind prompts of {slots}: there must be at least one, "
                f"and the model has {context} positions (llama.max_positions)"
            )
        return _prefill(self.graph, self.state, batch, jnp.asarray(self.tokens.eos), room=room)

    def decode(self, decoding: DecodeState, max_steps: int) -> DecodeState:
        """Choose up to `max_steps` more tokens; stops early when every row has ended."""
        steps = min(max_steps, decoding.tokens.shape[1] - int(decoding.count))
        stop = decoding.count + steps
        return _decode(self.graph, self.state, decoding, jnp.asarray(self.tokens.eos), stop)

    def finish(self, batch: Batch, decoding: DecodeState) -> SegMasks:
        """A mask for every [SEG] of prompts and answers, at the original sizes.

        A row whose sample has no grounding image gets none.
        """
        rows, steps, images, emitting = self._emitting(batch, decoding)
        sizes = np.asarray(batch.original_sizes)
        height, width = (int(n) for n in sizes.max(axis=0, initial=0))
        if not len(rows):
            return SegMasks(rows, steps, jnp.zeros((0, height, width)), jnp.zeros(0))
        # A few sizes only, so that a service compiles a handful of programs.
        padded = 1 << (len(rows) - 1).bit_length()
        fill = np.concatenate([np.arange(len(rows)), np.zeros(padded - len(rows), int)])
        batch = batch._replace(mask_image=jnp.asarray(images[fill]))
        logits, iou = _masks(self.graph, self.state, batch, emitting[fill], (height, width))
        return SegMasks(rows, steps, logits[: len(rows)], iou[: len(rows)])

    def answers(self, decoding: DecodeState) -> list[list[int]]:
        """The generated ids of each row, its end token included; none for a spare row."""
        out = []
        tokens = np.asarray(decoding.tokens[:, : int(decoding.count)])
        for row, length in zip(tokens, np.asarray(decoding.lengths), strict=True):
            ends = np.flatnonzero(row == self.tokens.eos)
            end = ends[0] + 1 if len(ends) else len(row)
            out.append(row[: end if length else 0].tolist())
        return out

    def _emitting(
        self, batch: Batch, decoding: DecodeState
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, Float[Array, "m d"]]:
        """Row, step, grounding image and emitting state of every [SEG] that can have a mask.

        Sorted by row, prompt first.
        """
        valid = np.flatnonzero(np.asarray(batch.mask_valid))
        prompt = (np.asarray(x)[valid] for x in (batch.mask_rows, batch.mask_positions))
        images = np.asarray(batch.mask_image)[valid]
        found = [(row, -1, at, image) for row, at, image in zip(*prompt, images, strict=True)]
        image_of_row = np.asarray(batch.row_grounding_image)
        for row, ids in enumerate(self.answers(decoding)):
            if image_of_row[row] >= 0:
                segs = [n for n, i in enumerate(ids) if i == self.tokens.seg]
                found += [(row, n, 0, image_of_row[row]) for n in segs]
        found.sort(key=lambda item: item[:2])  # stable: prompt positions stay in order
        rows, steps, positions, images = np.array(found, int).reshape(-1, 4).T
        if not len(rows):
            return rows, steps, images, decoding.emitting[:0, 0]
        from_prompt = decoding.prompt_hidden[rows, positions]
        from_answer = decoding.emitting[rows, np.maximum(steps, 0)]
        return rows, steps, images, jnp.where((steps < 0)[:, None], from_prompt, from_answer)


# -------------------------------------------------------------------- the programs, pure


@partial(jax.jit, static_argnames=("graph", "room"))
def _prefill(
    graph: nnx.GraphDef, state: nnx.State, batch: Batch, eos: Int[Array, ""], *, room: int
) -> DecodeState:
    model = nnx.merge(graph, state)
    rows, slots = batch.token_ids.shape
    embeddings = model.embed(batch)
    cache = KVCache.empty(model.config.llama, rows, slots + room, embeddings.dtype)
    hidden, cache = model.llama.prefill(embeddings, batch.positions, batch.token_valid, cache)
    lengths = ((batch.token_ids >= 0) | (batch.image_source >= 0)).sum(1)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    token = model.llama.logits(last).argmax(-1)
    return DecodeState(
        cache=cache,
        prompt_hidden=hidden,
        tokens=jnp.full((rows, room), model.config.tokens.pad).at[:, 0].set(token),
        emitting=jnp.zeros((rows, room, last.shape[-1]), last.dtype).at[:, 0].set(last),
        lengths=lengths,
        done=(lengths == 0) | (token == eos),  # a spare row of the batch has nothing to say
        count=jnp.asarray(1, jnp.int32),
    )


@partial(jax.jit, static_argnames="graph", donate_argnames="decoding")
def _decode(
    graph: nnx.GraphDef,
    state: nnx.State,
    decoding: DecodeState,
    eos: Int[Array, ""],
    stop: Int[Array, ""],
) -> DecodeState:
    model = nnx.merge(graph, state)

    def unfinished(s: DecodeState) -> Array:
        return (s.count < stop) & ~s.done.all()

    def step(s: DecodeState) -> DecodeState:
        previous = jax.lax.dynamic_index_in_dim(s.tokens, s.count - 1, 1)
        x = model.llama.embed_tokens(previous, model.dtype)
        positions = (s.lengths + s.count - 1)[:, None]
        slot = s.prompt_hidden.shape[1] + s.count - 1
        hidden, cache = model.llama.step(x, positions, slot, s.cache)
        token = model.llama.logits(hidden[:, 0]).argmax(-1)
        token = jnp.where(s.done, model.config.tokens.pad, token)
        return s._replace(
            cache=cache,
            tokens=s.tokens.at[:, s.count].set(token),
            emitting=s.emitting.at[:, s.count].set(hidden[:, 0]),
            done=s.done | (token == eos),
            count=s.count + 1,
        )

    return jax.lax.while_loop(unfinished, step, decoding)


@partial(jax.jit, static_argnames=("graph", "bucket"))
def _masks(
    graph: nnx.GraphDef,
    state: nnx.State,
    batch: Batch,
    emitting: Float[Array, "m d"],
    bucket: tuple[int, int],
) -> tuple[Float[Array, "m h w"], Float[Array, "m"]]:
    model = nnx.merge(graph, state)
    masks, iou = model.decode_masks(emitting, model.encode_grounding(batch), batch)
    resized = batch.resized_sizes[batch.mask_image]
    original = batch.original_sizes[batch.mask_image]
    return postprocess_masks(masks, resized, original, model.config.sam.image_size, bucket), iou
