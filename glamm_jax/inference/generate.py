"""Grounded generation: three jitted programs over an explicit state.

    state = generator.prefill(batch, room=64)        # prompt through the model, first token chosen
    state = generator.decode(state, max_steps=63)    # a while-loop against the key-value cache
    masks = generator.finish(batch, state)           # every [SEG] to a mask, on the device

The mask of a [SEG] comes from the hidden state that EMITTED it (trap 2), which a cache gives for
free: the original runs image, regions and the whole sequence again for every token (trap 5).

Rows are independent: each stops at its own end, padding is seen by nobody, and what a row draws
follows from its own seed. Decoding in slices gives the same tokens, so it streams.

A program is compiled for the shapes it meets. What an answer's length, number and size decide is
rounded up in here; pack with `glamm_jax.data.collate.bucketed` to keep the batch's shapes few, too.
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
from glamm_jax.data.collate import bucket
from glamm_jax.errors import GLaMMError
from glamm_jax.inference.compiled import CompiledFunction
from glamm_jax.inference.sampling import Sampling, sample_tokens
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.kv_cache import KVCache, write_slice
from glamm_jax.models.sam.postprocess import postprocess_masks
from glamm_jax.parallel import constrain, num_batch_shards, shard_batch_axis, to_host
from glamm_jax.types import Batch


class ContextError(GLaMMError):
    """Prompts and their answers do not fit the positions that the model knows."""


class DecodeState(NamedTuple):
    """Everything between two tokens. `decode` uses up the state that it is given."""

    cache: KVCache
    prompt_hidden: Float[Array, "b t d"]
    tokens: Int[Array, "b n"]  # generated so far, pad behind a row's end
    token_hidden: Float[Array, "b n d"]  # the hidden state that chose each of them
    prompt_lengths: Int[Array, "b"]  # tokens of each prompt, image patches included
    finished: Bool[Array, "b"]
    num_tokens: Int[Array, ""]  # tokens chosen so far in every row
    max_tokens: Int[Array, ""]  # tokens that may be chosen; `tokens` holds a few more
    sampling: Sampling


class SegMasks(NamedTuple):
    """Masks of one call, row by row, prompt before answer, in order of their [SEG]."""

    rows: np.ndarray  # int[m] the row of each mask
    steps: np.ndarray  # int[m] the generated token it belongs to, or -1 for a [SEG] of the prompt
    sizes: np.ndarray  # int[m 2] height and width of its original image
    masks: Bool[Array, "m h w"]  # at the original sizes, top left in a bucket, False around
    iou: Float[Array, "m"]  # the decoder's estimate of the mask's quality
    logits: Float[Array, "m h w"] | None = None  # if asked for; > 0 is the mask

    def of_row(self, row: int) -> Bool[np.ndarray, "k h w"]:
        """The masks of one row in the size of its image, on the host."""
        mine = np.flatnonzero(self.rows == row)
        height, width = self.sizes[mine[0]] if len(mine) else (0, 0)
        return to_host(self.masks)[mine, :height, :width]


class _Limits(NamedTuple):
    """When to stop: values of a program, so that they compile nothing anew."""

    eos: Int[Array, ""]
    stop: Int[Array, ""]  # tokens of an answer


class _Segs(NamedTuple):
    """[SEG] that are to have a mask."""

    rows: np.ndarray
    steps: np.ndarray  # the generated token, or -1
    positions: np.ndarray  # of the emitting state in the prompt, where there is no step
    images: np.ndarray  # slot of the batch's grounding images


# What the programs read of a batch; the shape of anything else would only cost compilations.
_READ_BY_PREFILL = (
    *("token_ids", "token_valid", "positions", "images", "image_source"),
    *("region_images", "boxes_xyxy_unit", "box_image", "region_source"),
)
_READ_BY_MASKS = ("grounding_images", "resized_sizes", "original_sizes")
_EMPTY = Batch(*(None,) * len(Batch._fields))


class Generator:
    """A model and its compiled programs.

    `tokens` names the [SEG] and the end token; the model's own unless given.
    """

    def __init__(self, model: GLaMM, tokens: TokenConfig | None = None):
        self.config: GLaMMConfig = model.config
        self.tokens = tokens or model.config.tokens
        self.graph, self.state = nnx.split(model)

    def prefill(self, batch: Batch, max_tokens: int, sampling: Sampling | None = None) -> DecodeState:
        """Run the prompts, choose each row's first token; at most `room` tokens will be generated.

        Greedy without `sampling`.

        Raises:
            ContextError: no room, or the longest prompt leaves the model no positions for it.
            SamplingError: settings for another number of rows.
        """
        is_token = (np.asarray(batch.token_ids) >= 0) | (np.asarray(batch.image_source) >= 0)
        lengths = is_token.sum(1, dtype=np.int32)
        longest, context = int(lengths.max(initial=0)), self.config.llama.max_positions
        if max_tokens < 1 or longest + max_tokens > context:
            raise ContextError(
                f"room for {max_tokens} tokens behind a prompt of {longest}: there must be at least one, "
                f"and the model has {context} positions (llama.max_positions)"
            )
        if sampling is None:
            sampling = Sampling.create(len(lengths))
        sampling.check_rows(len(lengths))
        read = _EMPTY._replace(
            **{name: shard_batch_axis(getattr(batch, name)) for name in _READ_BY_PREFILL}
        )
        inputs = (jnp.asarray(lengths), sampling, self._limits(max_tokens))
        return _prefill(self.graph, self.state, read, *inputs, num_tokens=bucket(max_tokens))

    def decode(self, state: DecodeState, max_steps: int) -> DecodeState:
        """Choose up to `max_steps` more tokens; stops early when every row has ended.

        In slices or at once: the tokens are the same.
        """
        if max_steps < 0:
            raise ValueError(f"max_steps = {max_steps}: must be at least 0")
        limits = self._limits(jnp.minimum(state.num_tokens + max_steps, state.max_tokens))
        return _decode(self.graph, self.state, state, limits)

    def finish(self, batch: Batch, state: DecodeState, with_logits: bool = False) -> SegMasks:
        """A mask for every [SEG] of prompts and answers, at the original sizes.

        A row whose sample has no grounding image gets none; only images with a [SEG] are encoded.
        """
        segs = self._find_segs(batch, state)
        count = len(segs.rows)
        sizes = np.asarray(batch.original_sizes)
        size = tuple(bucket(side) for side in sizes.max(axis=0, initial=0).tolist())
        found = (segs.rows, segs.steps, sizes[segs.images])
        if not count:
            nothing = jnp.zeros((0, *size))
            logits = nothing if with_logits else None
            return SegMasks(*found, nothing > 0, jnp.zeros(0), logits)
        # Masks are cheap: rows that have one each share their program with those that have less.
        room = _room(max(count, len(batch.token_ids)))
        padded = _Segs(*(_pad(x, room) for x in segs))
        needed, mask_image = np.unique(padded.images, return_inverse=True)
        needed = _pad(needed, _room(len(needed)))
        parts = {name: shard_batch_axis(getattr(batch, name)[needed]) for name in _READ_BY_MASKS}
        read = _EMPTY._replace(**parts, mask_image=mask_image.astype(np.int32))
        emitting = shard_batch_axis(_emitting(state, padded))
        masks, iou, logits = _decode_masks(
            self.graph, self.state, read, emitting, size=size, with_logits=with_logits
        )
        logits = logits[:count] if with_logits else None
        return SegMasks(*found, masks[:count], iou[:count], logits)

    def answer_token_ids(self, state: DecodeState) -> list[list[int]]:
        """The generated ids of each row, its end token included; none for a spare row."""
        out = []
        tokens = to_host(state.tokens)[:, : int(state.num_tokens)]
        for row, length in zip(tokens, to_host(state.prompt_lengths), strict=True):
            ends = np.flatnonzero(row == self.tokens.eos)
            end = ends[0] + 1 if len(ends) else len(row)
            out.append(row[: end if length else 0].tolist())
        return out

    def _limits(self, stop: int | Int[Array, ""]) -> _Limits:
        return _Limits(jnp.asarray(self.tokens.eos), jnp.asarray(stop, jnp.int32))

    def _find_segs(self, batch: Batch, state: DecodeState) -> _Segs:
        """Every [SEG] that can have a mask, sorted by row, prompt first."""
        valid = np.flatnonzero(np.asarray(batch.mask_valid))
        prompt = (batch.mask_rows, batch.mask_positions, batch.mask_image)
        found = [
            (row, -1, position, image)
            for row, position, image in zip(*(np.asarray(x)[valid] for x in prompt), strict=True)
        ]
        image_of_row = np.asarray(batch.row_grounding_image)
        for row, ids in enumerate(self.answer_token_ids(state)):
            if image_of_row[row] >= 0:
                steps = [n for n, each in enumerate(ids) if each == self.tokens.seg]
                found += [(row, step, 0, image_of_row[row]) for step in steps]
        found.sort(key=lambda seg: seg[:2])  # stable: prompt positions stay in order
        return _Segs(*np.array(found, np.int32).reshape(-1, 4).T)


# -------------------------------------------------------------------- the programs, pure


@partial(CompiledFunction, static_argnames=("graph", "num_tokens"))
def _prefill(
    graph: nnx.GraphDef,
    weights: nnx.State,
    batch: Batch,
    lengths: Int[Array, "b"],
    sampling: Sampling,
    limits: _Limits,
    *,
    num_tokens: int,
) -> DecodeState:
    model = nnx.merge(graph, weights)
    rows, slots = batch.token_ids.shape
    embeddings = model.embed(batch)
    cache = KVCache.empty(model.config.llama, rows, slots + num_tokens, embeddings.dtype)
    hidden, cache = model.llama.prefill(embeddings, batch.positions, batch.token_valid, cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    axes = ("layers", "batch", "heads", None, None)
    empty = DecodeState(
        cache=cache._replace(
            keys=constrain(cache.keys, *axes), values=constrain(cache.values, *axes)
        ),
        prompt_hidden=hidden,
        tokens=jnp.full((rows, num_tokens), model.config.tokens.pad),
        token_hidden=jnp.zeros((rows, num_tokens, last.shape[-1]), last.dtype),
        prompt_lengths=lengths,
        finished=lengths == 0,  # a spare row of the batch has nothing to say
        num_tokens=jnp.asarray(0, jnp.int32),
        max_tokens=limits.stop,
        sampling=jax.tree.map(jnp.copy, sampling),  # decoding uses up the state's arrays only
    )
    return _choose(model, empty, last, limits.eos)


@partial(CompiledFunction, static_argnames="graph", donate_argnames="state")
def _decode(
    graph: nnx.GraphDef, weights: nnx.State, state: DecodeState, limits: _Limits
) -> DecodeState:
    model = nnx.merge(graph, weights)

    def unfinished(s: DecodeState) -> Array:
        return (s.num_tokens < limits.stop) & ~s.finished.all()

    def step(s: DecodeState) -> DecodeState:
        previous = jax.lax.dynamic_slice_in_dim(s.tokens, s.num_tokens - 1, 1, axis=1)
        x = model.llama.embed_tokens(previous, model.dtype)
        positions = (s.prompt_lengths + s.num_tokens - 1)[:, None]
        slot = s.prompt_hidden.shape[1] + s.num_tokens - 1
        hidden, cache = model.llama.decode_step(x, positions, slot, s.cache)
        return _choose(model, s._replace(cache=cache), hidden, limits.eos)

    return jax.lax.while_loop(unfinished, step, state)


def _choose(
    model: GLaMM, s: DecodeState, hidden: Float[Array, "b 1 d"], eos: Int[Array, ""]
) -> DecodeState:
    """Every row's next token, from the state that emits it."""
    token = sample_tokens(model.llama.logits(hidden[:, 0]), s.sampling, s.num_tokens)
    token = jnp.where(s.finished, model.config.tokens.pad, token)
    return s._replace(
        tokens=write_slice(s.tokens, token[:, None], (0, s.num_tokens)),
        emitting=write_slice(s.token_hidden, hidden, (0, s.num_tokens, 0)),
        finished=s.finished | (token == eos),
        count=s.num_tokens + 1,
    )


@partial(CompiledFunction, static_argnames=("graph", "size", "with_logits"))
def _decode_masks(
    graph: nnx.GraphDef,
    weights: nnx.State,
    batch: Batch,
    emitting: Float[Array, "m d"],
    *,
    size: tuple[int, int],
    with_logits: bool,
) -> tuple[Bool[Array, "m h w"], Float[Array, "m"], Float[Array, "m h w"] | None]:
    model = nnx.merge(graph, weights)
    masks, iou = model.decode_masks(emitting, model.encode_grounding_images(batch), batch)
    resized = batch.resized_sizes[batch.mask_image]
    original = batch.original_sizes[batch.mask_image]
    logits = postprocess_masks(masks, resized, original, model.config.sam.image_size, size)
    return logits > 0, iou, logits if with_logits else None


# ------------------------------------------------------------------------------ helpers


def _room(count: int) -> int:
    """A number of few, which the devices that share a batch divide among them."""
    places = num_batch_shards()
    return -(-bucket(count, 1) // places) * places


def _pad(x: np.ndarray, count: int) -> np.ndarray:
    """The first entry again and again behind the others, up to `count` of them."""
    return np.concatenate([x, np.repeat(x[:1], count - len(x), axis=0)])


def _emitting(state: DecodeState, segs: _Segs) -> Float[Array, "m d"]:
    """The hidden state that emitted each [SEG]."""
    from_prompt = state.prompt_hidden[segs.rows, segs.positions]
    from_answer = state.token_hidden[segs.rows, np.maximum(segs.steps, 0)]
    return jnp.where((segs.steps < 0)[:, None], from_prompt, from_answer)
