"""Grounded generation: jitted programs over an explicit state.

    state = generator.prefill(batch, max_tokens=64)  # run the prompts, choose the first token
    state = generator.decode(state, max_steps=63)    # a while-loop against the key-value cache
    masks = generator.finish(batch, state)           # a mask for every [SEG], on the device

The mask of a [SEG] comes from the hidden state that EMITS it (quirk 2), which decoding with a cache
computes anyway. The original runs images, regions and the complete sequence again for every token
(quirk 5).

Rows are independent: each has its own number of tokens, limit and slots of the cache, stops at its
own end token, and its samples depend on its own seed only. Padding is never attended to. Decoding
in several calls gives the same tokens, so answers can be streamed. Rows can also join and leave a
running state, as a server needs it:

    running = generator.empty(StateShape(8, prompt_slots=256, answer_slots=128, cache_slots=384))
    prefilled = generator.prefill(batch, max_tokens=64, answer_slots=1)
    running = generator.insert(running, [2, 5], prefilled)   # its rows 0 and 1 become rows 2 and 5
    running = generator.decode(running, max_steps=8)         # all unfinished rows

A program is compiled for the shapes of its inputs. Answer lengths, the number of masks and mask
sizes are rounded up to buckets here; pack with `glamm_jax.data.collate.bucketed` to keep the number
of batch shapes small, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from glamm_jax.config import GLaMMConfig, TokenConfig
from glamm_jax.data.collate import bucket
from glamm_jax.errors import GLaMMError
from glamm_jax.inference.compiled import CompiledFunction, ModelWeights
from glamm_jax.inference.decode_state import (
    DecodeState,
    StateShape,
    allocate,
    empty_state,
    insert_rows,
    sharded_cache,
    with_room,
)
from glamm_jax.inference.mask_programs import (
    DecodedMasks,
    GroundingInputs,
    decode_masks,
    encode_images,
    resize_masks,
)
from glamm_jax.inference.sampling import Sampling, sample_tokens
from glamm_jax.models.glamm import GLaMM
from glamm_jax.models.kv_cache import write_rows
from glamm_jax.models.text_model import TextModel
from glamm_jax.parallel import num_shards, shard_batch_axis, to_host
from glamm_jax.types import Batch


class ContextError(GLaMMError):
    """The prompts and their answers need more positions than the model has."""


def used_slots(tokens: int, cache_slots: int) -> int:
    """Return how many slots `Generator.decode` has to read, one of few sizes.

    Args:
        tokens: of the longest unfinished row after the steps, prompt and answer together; the
            prompts of a state that `prefill` returned count with their padding.
        cache_slots: of the state.
    """
    return min(bucket(tokens, 1), cache_slots)


class SegMasks(NamedTuple):
    """Masks of one call, sorted by row, the prompt before the answer, in order of their [SEG]."""

    rows: np.ndarray  # int[m] the row of each mask
    steps: np.ndarray  # int[m] index of the generated [SEG]; -1: a [SEG] of the prompt
    sizes: np.ndarray  # int[m 2] height and width of the original image
    masks: Bool[Array, "m h w"]  # at the original size, top left in a bucket, False outside
    iou: Float[Array, "m"]  # the decoder's estimate of the IoU; any number, as no loss trains it
    foreground: Float[Array, "m"]  # mean probability of the pixels of the mask; 0 without any
    token_probability: Float[Array, "m"]  # of the phrase and its [SEG]; see `Generator.finish`
    logits: Float[Array, "m h w"] | None = None  # on request; a mask is logits > 0

    @property
    def scores(self) -> Float[Array, "m"]:
        """The confidence in each mask, a probability in 0 to 1: both factors multiplied."""
        return self.foreground * self.token_probability


class SegTokens(NamedTuple):
    """[SEG] tokens of a state that get a mask."""

    rows: np.ndarray
    steps: np.ndarray  # index of the generated token; -1: in the prompt
    positions: np.ndarray  # of the emitting hidden state in the prompt, if steps is -1
    images: np.ndarray  # index of the grounding image


# The fields of a batch that the programs use; the shapes of others would cause compilations.
_PREFILL_FIELDS = (
    *("token_ids", "token_valid", "positions", "images", "image_source"),
    *("region_images", "boxes_xyxy_unit", "box_image", "region_source"),
)
_IMAGE_FIELDS = ("grounding_images", "resized_sizes")
_SIZE_FIELDS = ("resized_sizes", "original_sizes")
_EMPTY_BATCH = Batch(*(None,) * len(Batch._fields))


class Generator:
    """A model and its compiled programs."""

    def __init__(self, model: GLaMM | TextModel, tokens: TokenConfig | None = None):
        """Split the model.

        Args:
            model: a `TextModel` has no masks, only texts.
            tokens: give the [SEG] and the end token; None: as in the model.
        """
        self.config = cast(GLaMMConfig, model.config)  # of which texts need the common fields
        self.tokens = tokens or model.config.tokens
        self.graph: nnx.GraphDef[Any]
        self.graph, self.state = nnx.split(model)
        self._weights = ModelWeights(self.graph, self.state)

    def prefill(
        self,
        batch: Batch,
        max_tokens: int | Sequence[int],
        sampling: Sampling | None = None,
        *,
        answer_slots: int | None = None,
    ) -> DecodeState:
        """Run the prompts and choose the first token of each row.

        Args:
            batch: the prompts, as packed by `glamm_jax.data.collate`.
            max_tokens: limit of the length of an answer, its end token included; one for all rows,
                or one for each.
            sampling: settings of every row; None: greedy.
            answer_slots: tokens that the state has room for; None: the largest limit, rounded up.
                A state that is inserted into another one needs a single one. The program of the
                prompts does not depend on it.

        Raises:
            ContextError: a limit is below 1, or a prompt and its limit together exceed the model's
                positions.
            SamplingError: the settings are for another number of rows.
        """
        is_token = (np.asarray(batch.token_ids) >= 0) | (np.asarray(batch.image_source) >= 0)
        lengths = is_token.sum(1, dtype=np.int32)
        limits = np.broadcast_to(np.asarray(max_tokens, np.int32), lengths.shape)
        context = self.config.llama.max_positions
        invalid = (limits < 1) | (lengths + limits > context)
        if invalid.any():
            row = int(np.argmax(np.where(invalid, lengths + 1, 0)))
            raise ContextError(
                f"max_tokens = {limits[row]} after a prompt of {lengths[row]} tokens: it must be "
                f"at least 1, and the model has {context} positions (llama.max_positions)"
            )
        if sampling is None:
            sampling = Sampling.create(len(lengths))
        sampling.check_rows(len(lengths))
        inputs = _EMPTY_BATCH._replace(
            **{name: shard_batch_axis(getattr(batch, name)) for name in _PREFILL_FIELDS}
        )
        prefilled = _prefill(
            self._weights,
            inputs,
            jnp.asarray(lengths),
            jnp.asarray(limits),
            sampling,
            jnp.asarray(self.tokens.eos),
        )
        slots = answer_slots or bucket(int(limits.max(initial=1)))
        if slots == 1:
            return prefilled
        return with_room(prefilled, answer_slots=slots, pad_token=self.config.tokens.pad)

    def empty(self, shape: StateShape) -> DecodeState:
        """Return a state without any row in use, for `insert`."""
        return empty_state(config=self.config, shape=shape)

    def insert(
        self, state: DecodeState, rows: Sequence[int], prefilled: DecodeState
    ) -> DecodeState:
        """Replace rows of a running state by those of a prefilled one.

        The caller sees to it that a prompt and its limit together fit the cache of `state`, and
        that the limit fits its answers.

        Args:
            state: the running state.
            rows: of `state`; one for each of the first rows of `prefilled`.
            prefilled: as `prefill` returns it, with `answer_slots=1`.

        Raises:
            ValueError: the prompts are longer than `state` has room for, or there are more `rows`
                than prefilled ones.
        """
        num_rows, prompt_slots = prefilled.prompt_hidden.shape[:2]
        available = state.prompt_hidden.shape[1]
        if prompt_slots > available or len(rows) > num_rows:
            raise ValueError(
                f"{len(rows)} rows from a state of {num_rows} with prompts of {prompt_slots} slots "
                f"do not fit a state with {available}"
            )
        targets = np.full(num_rows, len(state.finished), np.int32)  # no row: not inserted
        targets[: len(rows)] = rows
        return insert_rows(state, prefilled, jnp.asarray(targets))

    def decode(
        self, state: DecodeState, max_steps: int, used_slots: int | None = None
    ) -> DecodeState:
        """Choose up to `max_steps` more tokens; stop early when every row has finished.

        Args:
            state: as `prefill` or `insert` returns it.
            max_steps: tokens of a row.
            used_slots: of the cache, those of the longest unfinished row after these steps; fewer
                are read in less time. None: all.

        Raises:
            ValueError: `max_steps` is negative.
        """
        if max_steps < 0:
            raise ValueError(f"max_steps = {max_steps}: must be at least 0")
        eos, steps = jnp.asarray(self.tokens.eos), jnp.asarray(max_steps, jnp.int32)
        return _decode(self._weights, state, eos, steps, used_slots=used_slots)

    def finish(self, batch: Batch, state: DecodeState, with_logits: bool = False) -> SegMasks:
        """Decode a mask for every [SEG] of prompts and answers, at the original sizes.

        A row whose sample has no grounding image gets none. Only images with a [SEG] are encoded.
        The token probability of a mask is the geometric mean over the tokens from the last start of
        a phrase to the [SEG], or that of the [SEG] alone; 1 for a [SEG] of the prompt.

        Args:
            batch: the batch of `prefill`.
            state: the state after decoding.
            with_logits: return the logits, too.
        """
        segs = self._find_segs(batch, state)
        inputs = GroundingInputs(*(np.asarray(getattr(batch, x)) for x in GroundingInputs._fields))
        decoded = self.decode_masks(
            self.seg_hidden(state, segs, min_count=len(batch.token_ids)),
            segs.images,
            inputs,
            with_logits=with_logits,
        )
        return SegMasks(
            segs.rows,
            segs.steps,
            inputs.original_sizes[segs.images],
            *decoded[:3],
            jnp.asarray(self.token_probability(state, segs)),
            decoded.logits,
        )

    def seg_hidden(
        self, state: DecodeState, segs: SegTokens, min_count: int = 1
    ) -> Float[Array, "m d"]:
        """Return the hidden states that emitted [SEG]s, padded by copies of the first one.

        Args:
            state: the state after decoding.
            segs: the tokens.
            min_count: rounded up to a bucket, the smallest number of states. Masks are cheap, so
                different numbers of them should share a program.
        """
        if not len(segs.rows):
            return jnp.zeros((0, state.token_hidden.shape[-1]), state.token_hidden.dtype)
        count = _padded_count(max(len(segs.rows), min_count))
        padded = [_pad_with_first(x, count) for x in segs[:3]]
        return _seg_hidden(state.prompt_hidden, state.token_hidden, *padded)

    def decode_masks(
        self,
        hidden: Float[Array, "m d"],
        mask_image: np.ndarray,
        inputs: GroundingInputs,
        *,
        with_logits: bool = False,
        size_steps: int = 4,
    ) -> DecodedMasks:
        """Encode images and decode masks at their original sizes.

        Args:
            hidden: as `seg_hidden` returns it, perhaps padded.
            mask_image: index of the image of each mask; as long as there are masks.
            inputs: the images; those without a mask are not encoded.
            with_logits: return the logits, too.
            size_steps: sizes of masks for each doubling; fewer of them compile fewer programs.
        """
        count = len(mask_image)
        largest = inputs.original_sizes.max(axis=0, initial=0)
        size = tuple(bucket(side, size_steps) for side in largest.tolist())
        if not count:
            empty, none = jnp.zeros((0, *size)), jnp.zeros(0)
            return DecodedMasks(empty > 0, none, none, empty if with_logits else None)
        padded = _pad_with_first(mask_image, len(hidden))
        images, image_index = np.unique(padded, return_inverse=True)
        images = _pad_with_first(images, _padded_count(len(images)))
        fields = {name: shard_batch_axis(getattr(inputs, name)[images]) for name in _IMAGE_FIELDS}
        embeddings = encode_images(self._weights, _EMPTY_BATCH._replace(**fields))
        low_res, iou = decode_masks(
            self._weights,
            _EMPTY_BATCH._replace(mask_image=image_index.astype(np.int32)),
            embeddings,
            shard_batch_axis(hidden),
        )
        masks, foreground, logits = resize_masks(
            low_res,
            *(shard_batch_axis(getattr(inputs, name)[padded]) for name in _SIZE_FIELDS),
            canvas_size=self.config.sam.image_size,
            size=size,
            with_logits=with_logits,
        )
        logits = logits[:count] if with_logits else None
        return DecodedMasks(masks[:count], iou[:count], foreground[:count], logits)

    def answer_token_ids(self, state: DecodeState) -> list[list[int]]:
        """Return the generated ids of each row, end token included; none for an unused row."""
        tokens, counts = to_host(state.tokens), to_host(state.num_tokens)
        return [row[:count].tolist() for row, count in zip(tokens, counts, strict=True)]

    def token_probability(self, state: DecodeState, segs: SegTokens) -> Float[np.ndarray, "m"]:
        """Return the probability of the tokens that belong to each [SEG]; see `finish`."""
        rows, steps = segs.rows, segs.steps
        tokens, log_probs = to_host(state.tokens), to_host(state.token_log_prob)
        probability = np.ones(len(rows), np.float32)
        for k in np.flatnonzero(steps >= 0):
            row, end = rows[k], steps[k] + 1
            starts = np.flatnonzero(tokens[row, :end] == self.tokens.phrase_start)
            start = starts[-1] + 1 if len(starts) else end - 1
            probability[k] = np.exp(log_probs[row, start:end].mean())
        return probability

    def _find_segs(self, batch: Batch, state: DecodeState) -> SegTokens:
        """Return every [SEG] that can have a mask, sorted by row, the prompt first."""
        valid = np.flatnonzero(np.asarray(batch.mask_valid))
        in_prompts = (batch.mask_rows, batch.mask_positions, batch.mask_image)
        segs = [
            (row, -1, position, image)
            for row, position, image in zip(
                *(np.asarray(x)[valid] for x in in_prompts), strict=True
            )
        ]
        image_of_row = np.asarray(batch.row_grounding_image)
        for row, ids in enumerate(self.answer_token_ids(state)):
            if image_of_row[row] >= 0:
                steps = [step for step, token_id in enumerate(ids) if token_id == self.tokens.seg]
                segs += [(row, step, 0, image_of_row[row]) for step in steps]
        segs.sort(key=lambda seg: seg[:2])  # stable: prompt positions stay in order
        return SegTokens(*np.array(segs, np.int32).reshape(-1, 4).T)


# ------------------------------------------------------------------- the jitted programs


@partial(CompiledFunction)
def _prefill(
    weights: ModelWeights,
    batch: Batch,
    lengths: Int[Array, "b"],
    max_tokens: Int[Array, "b"],
    sampling: Sampling,
    eos: Int[Array, ""],
) -> DecodeState:
    """Run the prompts; the state has room for one generated token."""
    model = weights.merge()
    rows, prompt_slots = batch.token_ids.shape
    embeddings = model.embed(batch)
    shape = StateShape(rows, prompt_slots, 1, prompt_slots + 1)
    empty = allocate(model.config, shape, embeddings.dtype)
    hidden, cache = model.llama.prefill(embeddings, batch.positions, batch.token_valid, empty.cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    state = empty._replace(
        cache=sharded_cache(cache),
        prompt_hidden=hidden,
        prompt_lengths=lengths,
        first_slots=jnp.full(rows, prompt_slots),
        finished=lengths == 0,  # unused rows of the batch
        max_tokens=max_tokens,
        sampling=jax.tree.map(jnp.copy, sampling),  # decoding donates the arrays of the state
    )
    return _append_token(model, state, last, eos)


@partial(CompiledFunction, static_argnames="used_slots", donate_argnames="state")
def _decode(
    weights: ModelWeights,
    state: DecodeState,
    eos: Int[Array, ""],
    max_steps: Int[Array, ""],
    *,
    used_slots: int | None = None,
) -> DecodeState:
    """Generate tokens until every row has finished or the number of steps is reached."""
    model = weights.merge()

    def unfinished(carry: tuple[DecodeState, Array]) -> Array:
        s, steps = carry
        return (steps < max_steps) & ~s.finished.all()

    def step(carry: tuple[DecodeState, Array]) -> tuple[DecodeState, Array]:
        s, steps = carry
        last = jnp.maximum(s.num_tokens - 1, 0)
        previous = jnp.take_along_axis(s.tokens, last[:, None], axis=1)
        x = model.llama.embed_tokens(previous, model.dtype)
        positions = (s.prompt_lengths + last)[:, None]
        # Rows that have finished write behind the last slot, which is dropped.
        slots = jnp.where(s.finished, s.cache.valid.shape[1], s.first_slots + last)
        hidden, cache = model.llama.decode_step(x, positions, slots, s.cache, used_slots)
        return _append_token(model, s._replace(cache=cache), hidden, eos), steps + 1

    return jax.lax.while_loop(unfinished, step, (state, jnp.zeros_like(max_steps)))[0]


def _append_token(
    model: GLaMM | TextModel, s: DecodeState, hidden: Float[Array, "b 1 d"], eos: Int[Array, ""]
) -> DecodeState:
    """Choose the next token of every unfinished row from the hidden state that emits it."""
    logits = model.llama.logits(hidden[:, 0])
    token = sample_tokens(logits, s.sampling, s.num_tokens)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0].astype(jnp.float32)
    log_prob = chosen - jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    capacity = s.tokens.shape[1]
    index = jnp.where(s.finished, capacity, s.num_tokens)  # behind the last one: dropped
    is_new = jnp.arange(capacity)[None] == index[:, None]
    num_tokens = s.num_tokens + ~s.finished
    return s._replace(
        tokens=jnp.where(is_new, token[:, None], s.tokens),
        token_hidden=write_rows(s.token_hidden[:, None], hidden[:, None], index)[:, 0],
        token_log_prob=jnp.where(is_new, log_prob[:, None], s.token_log_prob),
        finished=s.finished | (token == eos) | (num_tokens >= s.max_tokens),
        num_tokens=num_tokens,
    )


@partial(CompiledFunction)
def _seg_hidden(
    prompt_hidden: Float[Array, "b t d"],
    token_hidden: Float[Array, "b n d"],
    rows: Int[Array, "m"],
    steps: Int[Array, "m"],
    positions: Int[Array, "m"],
) -> Float[Array, "m d"]:
    """Gather the hidden states that emitted [SEG]s; a step of -1 is one of the prompt."""
    from_answer = token_hidden[rows, jnp.maximum(steps, 0)]
    return jnp.where((steps < 0)[:, None], prompt_hidden[rows, positions], from_answer)


# ------------------------------------------------------------------------------ helpers


def _padded_count(count: int) -> int:
    """Round up to a bucket that the batch shards of the mesh divide."""
    shards = num_shards("batch")
    return -(-bucket(count, 1) // shards) * shards


def _pad_with_first(x: np.ndarray, count: int) -> np.ndarray:
    """Pad an array to `count` entries with copies of its first entry."""
    return np.concatenate([x, np.repeat(x[:1], count - len(x), axis=0)])
