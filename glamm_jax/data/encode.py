"""Conversations about one picture become a sample: pixels for both encoders, ids for the decoder.

What a batch could never hold is left out here, and said in `notes`; nothing is cut in silence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.preprocess import clip_and_grounding_images, clip_image
from glamm_jax.data.sample import Row, Sample
from glamm_jax.text.label_spans import EncodedTurns, LabelError, encode_turns
from glamm_jax.text.questions import with_preamble
from glamm_jax.text.special_tokens import (
    IGNORE_ID,
    IMAGE_END,
    IMAGE_PLACEHOLDER,
    IMAGE_START,
    REGION,
    SEG,
)
from glamm_jax.text.tokenizer import Tokenizer
from glamm_jax.types import BatchShape, Example

# What can happen to a conversation; counted by these names.
TRUNCATED = "cut to the context"
NO_ANSWER_LEFT = "dropped: no answer fits into the context"
RESERVED = "dropped: its text holds a token of the model's"
NOT_ENCODED = "dropped: its turns cannot be encoded"
SMALLER_MASKS = "masks compared below the picture's size"


class Prepared(NamedTuple):
    """A sample, or None when nothing is left of it, and what happened on the way."""

    sample: Sample | None
    notes: tuple[str, ...] = ()


class Kept(NamedTuple):
    """A conversation that fits, with the boxes and masks that it still mentions."""

    encoded: EncodedTurns
    boxes: np.ndarray | None
    masks: np.ndarray | None


def prepare(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    model: GLaMMConfig,
    room: BatchShape,
    bare_image: bool = False,
) -> Prepared:
    """One sample of conversations about one picture, which all of them hold.

    SAM sees the picture only if masks are asked for, the region encoder only if there are boxes. A
    conversation is cut to the tokens and targets of a row (trap 32), and masks and boxes that are
    not mentioned any more go with its end. Masks that are smaller than the picture are compared at
    their own size. Without examples there is no sample.
    """
    found, notes = [], []
    for example in examples:
        kept, note = encode_example(example, tokenizer, model, room, bare_image)
        found += [kept] if kept else []
        notes += [f"{example.task}: {note}"] if note else []
    if not found:
        return Prepared(None, tuple(notes))
    boxes = [np.zeros((0, 4), np.float32) if each.boxes is None else each.boxes for each in found]
    starts = np.cumsum([0, *map(len, boxes)]).tolist()
    some_boxes = any(each.boxes is not None for each in found)
    rows = tuple(
        Row(each.encoded.ids, each.encoded.labels, start)
        for each, start in zip(found, starts, strict=False)
    )
    sample = Sample(
        rows,
        boxes_xyxy_unit=np.concatenate(boxes) if some_boxes else None,
        name=f"{examples[0].source} {examples[0].id}",
    )
    picture, masks = examples[0].image, [each.masks for each in found if each.masks is not None]
    if not masks:
        sample = replace(sample, image=clip_image(picture, model.clip.image_size))
        return Prepared(sample, tuple(notes))
    truth = masks[0] if len(masks) == 1 else np.concatenate(masks)
    size = truth.shape[1:]
    notes += [SMALLER_MASKS] if size != picture.shape[:2] else []
    image, grounding = clip_and_grounding_images(
        picture, model.clip.image_size, model.sam.image_size
    )
    sample = replace(
        sample,
        image=image,
        grounding_image=grounding.pixels,
        resized_size=grounding.resized_size,
        original_size=size,
        masks=truth,
    )
    return Prepared(sample, tuple(notes))


def encode_example(
    example: Example, tokenizer: Tokenizer, model: GLaMMConfig, room: BatchShape, bare_image: bool
) -> tuple[Kept | None, str]:
    """The conversation as far as it fits, or None, and what happened to it."""
    if not _counts_agree(example):
        return None, RESERVED
    question, *others = example.turns
    try:
        encoded = encode_turns([with_preamble(question, bare_image), *others], tokenizer)
    except LabelError:
        return None, NOT_ENCODED
    learned = np.flatnonzero(encoded.labels != IGNORE_ID)
    length = room.tokens - (model.clip.num_patches - 1)
    if len(learned) > room.targets:
        length = min(length, int(learned[room.targets]))
    if len(encoded.ids) <= length:
        return Kept(encoded, example.boxes_xyxy_unit, example.masks), ""
    end = max(length, 0)
    cut = EncodedTurns(encoded.ids[:end], encoded.labels[:end])
    if (cut.labels == IGNORE_ID).all():
        return None, NO_ANSWER_LEFT
    boxes = _mentioned(example.boxes_xyxy_unit, cut.ids, model.tokens.region)
    masks = _mentioned(example.masks, cut.ids, model.tokens.seg)
    return Kept(cut, boxes, masks), TRUNCATED


def _counts_agree(example: Example) -> bool:
    """Whether the text has a token for every box and mask, and no other that has a meaning."""
    text = "\n".join(example.turns)
    counts = ((SEG, example.masks), (REGION, example.boxes_xyxy_unit))
    agree = all(text.count(token) == (0 if own is None else len(own)) for token, own in counts)
    return agree and not any(token in text for token in (IMAGE_PLACEHOLDER, IMAGE_START, IMAGE_END))


def _mentioned(items: np.ndarray | None, ids: np.ndarray, token: int) -> np.ndarray | None:
    """The items whose tokens are left; None when there is none."""
    number = int((ids == token).sum())
    return items[:number] if items is not None and number else None
