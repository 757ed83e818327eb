"""Structure of attention masks: causality, valid keys, and segments of packed rows."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

MASKED_SCORE = -1e30


class Segments(NamedTuple):
    """Segments of packed rows, which hold several conversations, some with a common prefix.

    A token attends to the keys whose segment is its own or its prefix: attention to its own segment
    and attention to the prefix. Flash kernels can mask each with one integer per token and merge
    both by their log-sum-exp.

    Attributes:
        ids: the segment of each token.
        prefix_ids: the segment that the token attends to besides its own; -1: none. It differs
            from the segment of the token.
    """

    ids: Int[Array, "b t"]
    prefix_ids: Int[Array, "b t"]


class MaskArrays(NamedTuple):
    """What the mask depends on besides causality; every array has the batch axis first.

    Attributes:
        valid: False keys are never attended to; None: all are valid.
        segments: of the tokens, which are queries and keys alike; None: all are of one segment.
    """

    valid: Bool[Array, "b s"] | None = None
    segments: Segments | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is masked."""
        return self.valid is None and self.segments is None


NO_MASK = MaskArrays()


def visible_keys(
    causal: bool,
    masks: MaskArrays,
    query_start: int | Int[Array, ""],
    num_queries: int,
    key_start: int | Int[Array, ""],
    num_keys: int,
) -> Bool[Array, "#b #q #k"] | None:
    """Return which keys of a block each query of a block attends to; None: all.

    Args:
        causal: query i attends to keys 0..i.
        masks: arrays of complete sequences.
        query_start: first query of the block.
        num_queries: of the block.
        key_start: first key of the block.
        num_keys: of the block.
    """
    cut_queries = functools.partial(_slice, start=query_start, size=num_queries)
    cut_keys = functools.partial(_slice, start=key_start, size=num_keys)
    parts = []
    if causal:
        queries, keys = query_start + jnp.arange(num_queries), key_start + jnp.arange(num_keys)
        parts.append((keys[None, :] <= queries[:, None])[None])
    if masks.valid is not None:
        parts.append(cut_keys(masks.valid)[:, None, :])
    if masks.segments is not None:
        key_ids = cut_keys(masks.segments.ids)[:, None, :]
        own, prefix = (cut_queries(x)[:, :, None] for x in masks.segments)
        parts.append((key_ids == own) | (key_ids == prefix))
    return functools.reduce(jnp.logical_and, parts) if parts else None


def _slice(x: Array, start: int | Array, size: int) -> Array:
    if size == x.shape[1]:
        return x
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)
