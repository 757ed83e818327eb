"""Grounded generation: jitted programs over an explicit state.

    state = generator.prefill(batch, max_tokens=64)  # run the prompts, choose the first token
    state = generator.decode(state, max_steps=63)    # a while-loop against the key-value cache
    masks = generator.finish(batch, state)           # a mask for every [SEG], on the device

The mask of a [SEG] comes from the hidden state that EMITS it (quirk 2), which decoding with a cache
computes anyway. The original runs images, regions and the complete sequence again for every token
(quirk 5).

Rows are independent: each stops at its own end token, padding is never attended to, and the samples
of a row depend on its own seed only. Decoding in several calls gives the same tokens, so answers
can be streamed.

A program is compiled for the shapes of its inputs. Answer lengths, the number of masks and mask
sizes are rounded up to buckets here; pack with `glamm_jax.data.collate.bucketed` to keep the number
of batch shapes small, too.
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
from glamm_jax.parallel import constrain, num_shards, shard_batch_axis, to_host
from glamm_jax.types import Batch


class ContextError(GLaMMError):
    """The prompts and their answers need more positions than the model has."""


class DecodeState(NamedTuple):
    """The state between two tokens. `decode` donates the state that it receives."""

    cache: KVCache
    prompt_hidden: Float[Array, "b t d"]
    tokens: Int[Array, "b n"]  # the generated tokens; pad after the end of a row
    token_hidden: Float[Array, "b n d"]  # the hidden state that emitted each of them
    token_log_prob: Float[Array, "b n"]  # of each, by the model at temperature 1
    prompt_lengths: Int[Array, "b"]  # in tokens, image patches included; 0: unused row
    finished: Bool[Array, "b"]
    num_tokens: Int[Array, ""]  # generated so far in every row
    max_tokens: Int[Array, ""]  # limit of num_tokens; `tokens` is rounded up to a bucket
    sampling: Sampling


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


class _StopCriteria(NamedTuple):
    """When to stop; traced values, so that changing them compiles nothing."""

    eos: Int[Array, ""]
    max_tokens: Int[Array, ""]  # of an answer


class _SegTokens(NamedTuple):
    """The [SEG] tokens that get a mask."""

    rows: np.ndarray
    steps: np.ndarray  # index of the generated token; -1: in the prompt
    positions: np.ndarray  # of the emitting hidden state in the prompt, if steps is -1
    images: np.ndarray  # index of the batch's grounding images


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

    def __init__(self, model: GLaMM, tokens: TokenConfig | None = None):
        """Split the model; `tokens` gives the [SEG] and the end token, None: as in the model."""
        self.config: GLaMMConfig = model.config
        self.tokens = tokens or model.config.tokens
        self.graph, self.state = nnx.split(model)

    def prefill(
        self, batch: Batch, max_tokens: int, sampling: Sampling | None = None
    ) -> DecodeState:
        """Run the prompts and choose the first token of each row.

        Args:
            batch: the prompts, as packed by `glamm_jax.data.collate`.
            max_tokens: limit of the length of an answer, its end token included.
            sampling: settings of every row; None: greedy.

        Raises:
            ContextError: `max_tokens` is below 1, or the longest prompt and `max_tokens` together
                exceed the model's positions.
            SamplingError: the settings are for another number of rows.
        """
        is_token = (np.asarray(batch.token_ids) >= 0) | (np.asarray(batch.image_source) >= 0)
        lengths = is_token.sum(1, dtype=np.int32)
        longest, context = int(lengths.max(initial=0)), self.config.llama.max_positions
        if max_tokens < 1 or longest + max_tokens > context:
            raise ContextError(
                f"max_tokens = {max_tokens} after a prompt of {longest} tokens: it must be at "
                f"least 1, and the model has {context} positions (llama.max_positions)"
            )
        if sampling is None:
            sampling = Sampling.create(len(lengths))
        sampling.check_rows(len(lengths))
        inputs = _EMPTY_BATCH._replace(
            **{name: shard_batch_axis(getattr(batch, name)) for name in _PREFILL_FIELDS}
        )
        return _prefill(
            self.graph,
            self.state,
            inputs,
            jnp.asarray(lengths),
            sampling,
            self._stop_criteria(max_tokens),
            num_slots=bucket(max_tokens),
        )

    def decode(self, state: DecodeState, max_steps: int) -> DecodeState:
        """Choose up to `max_steps` more tokens; stop early when every row has finished.

        Raises:
            ValueError: `max_steps` is negative.
        """
        if max_steps < 0:
            raise ValueError(f"max_steps = {max_steps}: must be at least 0")
        limit = jnp.minimum(state.num_tokens + max_steps, state.max_tokens)
        return _decode(self.graph, self.state, state, self._stop_criteria(limit))

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
        count = len(segs.rows)
        sizes = np.asarray(batch.original_sizes)
        size = tuple(bucket(side) for side in sizes.max(axis=0, initial=0).tolist())
        index = (segs.rows, segs.steps, sizes[segs.images])
        if not count:
            empty = jnp.zeros((0, *size))
            none = jnp.zeros(0)
            return SegMasks(*index, empty > 0, none, none, none, empty if with_logits else None)
        # Masks are cheap: batches with up to one mask per row share a program.
        num_masks = _padded_count(max(count, len(batch.token_ids)))
        segs = _SegTokens(*(_pad_with_first(x, num_masks) for x in segs))
        images, mask_image = np.unique(segs.images, return_inverse=True)
        images = _pad_with_first(images, _padded_count(len(images)))
        fields = {name: shard_batch_axis(getattr(batch, name)[images]) for name in _IMAGE_FIELDS}
        embeddings = _encode_images(self.graph, self.state, _EMPTY_BATCH._replace(**fields))
        from_prompt = state.prompt_hidden[segs.rows, segs.positions]
        from_answer = state.token_hidden[segs.rows, np.maximum(segs.steps, 0)]
        seg_hidden = jnp.where((segs.steps < 0)[:, None], from_prompt, from_answer)
        low_res, iou = _decode_masks(
            self.graph,
            self.state,
            _EMPTY_BATCH._replace(mask_image=mask_image.astype(np.int32)),
            embeddings,
            shard_batch_axis(seg_hidden),
        )
        masks, foreground, logits = _resize_masks(
            low_res,
            *(shard_batch_axis(np.asarray(getattr(batch, x))[segs.images]) for x in _SIZE_FIELDS),
            canvas_size=self.config.sam.image_size,
            size=size,
            with_logits=with_logits,
        )
        logits = logits[:count] if with_logits else None
        probability = jnp.asarray(self._token_probability(state, *index[:2]))
        return SegMasks(*index, masks[:count], iou[:count], foreground[:count], probability, logits)

    def answer_token_ids(self, state: DecodeState) -> list[list[int]]:
        """Return the generated ids of each row, end token included; none for an unused row."""
        answers = []
        tokens = to_host(state.tokens)[:, : int(state.num_tokens)]
        for row, prompt_length in zip(tokens, to_host(state.prompt_lengths), strict=True):
            ends = np.flatnonzero(row == self.tokens.eos)
            end = ends[0] + 1 if len(ends) else len(row)
            answers.append(row[: end if prompt_length else 0].tolist())
        return answers

    def _token_probability(
        self, state: DecodeState, rows: np.ndarray, steps: np.ndarray
    ) -> Float[np.ndarray, "m"]:
        """Return the probability of the tokens that belong to each [SEG]."""
        tokens, log_probs = to_host(state.tokens), to_host(state.token_log_prob)
        probability = np.ones(len(rows), np.float32)
        for k in np.flatnonzero(steps >= 0):
            row, end = rows[k], steps[k] + 1
            starts = np.flatnonzero(tokens[row, :end] == self.tokens.phrase_start)
            start = starts[-1] + 1 if len(starts) else end - 1
            probability[k] = np.exp(log_probs[row, start:end].mean())
        return probability

    def _stop_criteria(self, max_tokens: int | Int[Array, ""]) -> _StopCriteria:
        return _StopCriteria(jnp.asarray(self.tokens.eos), jnp.asarray(max_tokens, jnp.int32))

    def _find_segs(self, batch: Batch, state: DecodeState) -> _SegTokens:
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
        return _SegTokens(*np.array(segs, np.int32).reshape(-1, 4).T)


# ------------------------------------------------------------------- the jitted programs


@partial(CompiledFunction, static_argnames=("graph", "num_slots"))
def _prefill(
    graph: nnx.GraphDef,
    weights: nnx.State,
    batch: Batch,
    lengths: Int[Array, "b"],
    sampling: Sampling,
    stop: _StopCriteria,
    *,
    num_slots: int,
) -> DecodeState:
    """Run the prompts; allocate the state for `num_slots` generated tokens."""
    model = nnx.merge(graph, weights)
    rows, prompt_slots = batch.token_ids.shape
    embeddings = model.embed(batch)
    cache = KVCache.empty(model.config.llama, rows, prompt_slots + num_slots, embeddings.dtype)
    hidden, cache = model.llama.prefill(embeddings, batch.positions, batch.token_valid, cache)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    axes = ("layers", "batch", "heads", None, None)
    empty = DecodeState(
        cache=cache._replace(
            keys=constrain(cache.keys, *axes), values=constrain(cache.values, *axes)
        ),
        prompt_hidden=hidden,
        tokens=jnp.full((rows, num_slots), model.config.tokens.pad),
        token_hidden=jnp.zeros((rows, num_slots, last.shape[-1]), last.dtype),
        token_log_prob=jnp.zeros((rows, num_slots)),
        prompt_lengths=lengths,
        finished=lengths == 0,  # unused rows of the batch
        num_tokens=jnp.asarray(0, jnp.int32),
        max_tokens=stop.max_tokens,
        sampling=jax.tree.map(jnp.copy, sampling),  # decoding donates the arrays of the state
    )
    return _append_token(model, empty, last, stop.eos)


@partial(CompiledFunction, static_argnames="graph", donate_argnames="state")
def _decode(
    graph: nnx.GraphDef, weights: nnx.State, state: DecodeState, stop: _StopCriteria
) -> DecodeState:
    """Generate tokens until every row has finished or the limit is reached."""
    model = nnx.merge(graph, weights)

    def unfinished(s: DecodeState) -> Array:
        return (s.num_tokens < stop.max_tokens) & ~s.finished.all()

    def step(s: DecodeState) -> DecodeState:
        previous = jax.lax.dynamic_slice_in_dim(s.tokens, s.num_tokens - 1, 1, axis=1)
        x = model.llama.embed_tokens(previous, model.dtype)
        positions = (s.prompt_lengths + s.num_tokens - 1)[:, None]
        slot = s.prompt_hidden.shape[1] + s.num_tokens - 1
        hidden, cache = model.llama.decode_step(x, positions, slot, s.cache)
        return _append_token(model, s._replace(cache=cache), hidden, stop.eos)

    return jax.lax.while_loop(unfinished, step, state)


def _append_token(
    model: GLaMM, s: DecodeState, hidden: Float[Array, "b 1 d"], eos: Int[Array, ""]
) -> DecodeState:
    """Choose the next token of every row from the hidden state that emits it."""
    logits = model.llama.logits(hidden[:, 0])
    token = sample_tokens(logits, s.sampling, s.num_tokens)
    token = jnp.where(s.finished, model.config.tokens.pad, token)
    chosen = jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0].astype(jnp.float32)
    log_prob = chosen - jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)
    return s._replace(
        tokens=write_slice(s.tokens, token[:, None], (0, s.num_tokens)),
        token_hidden=write_slice(s.token_hidden, hidden, (0, s.num_tokens, 0)),
        token_log_prob=write_slice(s.token_log_prob, log_prob[:, None], (0, s.num_tokens)),
        finished=s.finished | (token == eos),
        num_tokens=s.num_tokens + 1,
    )


# The numbers of images and of masks and the size of the masks vary between calls, so each of these
# programs depends on as few of them as possible.


@partial(CompiledFunction, static_argnames="graph")
def _encode_images(
    graph: nnx.GraphDef, weights: nnx.State, batch: Batch
) -> Float[Array, "g s s c"]:
    """Compute SAM's embeddings of the images with a [SEG]."""
    return nnx.merge(graph, weights).encode_grounding_images(batch)


@partial(CompiledFunction, static_argnames="graph")
def _decode_masks(
    graph: nnx.GraphDef,
    weights: nnx.State,
    batch: Batch,
    embeddings: Float[Array, "g s s c"],
    seg_hidden: Float[Array, "m d"],
) -> tuple[Float[Array, "m h w"], Float[Array, "m"]]:
    """Compute low-resolution mask logits and IoU estimates."""
    return nnx.merge(graph, weights).decode_masks(seg_hidden, embeddings, batch)


@partial(CompiledFunction, static_argnames=("canvas_size", "size", "with_logits"))
def _resize_masks(
    low_res: Float[Array, "m s s"],
    resized: Int[Array, "m 2"],
    original: Int[Array, "m 2"],
    *,
    canvas_size: int,
    size: tuple[int, int],
    with_logits: bool,
) -> tuple[Bool[Array, "m h w"], Float[Array, "m"], Float[Array, "m h w"] | None]:
    """Resize mask logits to their images.

    Args:
        low_res: the logits.
        resized: size of each mask's image inside the canvas.
        original: size of each mask's original image.
        canvas_size: side of the padded input image of SAM.
        size: of the results, at least that of every original.
        with_logits: return the logits, too.

    Returns:
        Masks, mean probabilities of the pixels of the masks, and the logits.
    """
    logits = postprocess_masks(low_res, resized, original, canvas_size, size)
    masks = logits > 0
    inside = jnp.where(masks, jax.nn.sigmoid(logits), 0).sum((1, 2))
    foreground = inside / jnp.maximum(masks.sum((1, 2)), 1)
    return masks, foreground, logits if with_logits else None


# ------------------------------------------------------------------------------ helpers


def _padded_count(count: int) -> int:
    """Round up to a bucket that the batch shards of the mesh divide."""
    shards = num_shards("batch")
    return -(-bucket(count, 1) // shards) * shards


def _pad_with_first(x: np.ndarray, count: int) -> np.ndarray:
    """Pad an array to `count` entries with copies of its first entry."""
    return np.concatenate([x, np.repeat(x[:1], count - len(x), axis=0)])
