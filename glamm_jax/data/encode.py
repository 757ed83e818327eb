"""Encode examples about one image as a sample: pixels for both encoders, token ids for the decoder.

Text that the context cannot hold is truncated, conversations that cannot be encoded are dropped;
each such event is named in the returned notes, which the loader counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.annotation_rules import RESERVED_TOKEN
from glamm_jax.data.preprocess import clip_and_grounding_images, clip_image
from glamm_jax.errors import GLaMMError
from glamm_jax.text.label_spans import EncodedTurns, LabelError, encode_turns
from glamm_jax.text.questions import with_preamble
from glamm_jax.text.special_tokens import (
    IGNORE_ID,
    IMAGE_END,
    IMAGE_ID,
    IMAGE_PLACEHOLDER,
    IMAGE_START,
    REGION,
    SEG,
)
from glamm_jax.text.tokenizer import Tokenizer
from glamm_jax.types import BatchShape, Example

# Events of a conversation, counted under these names.
TRUNCATED = "truncated to the context"
NO_ANSWER_LEFT = "dropped: no answer fits into the context"
NOT_ENCODED = "dropped: its turns cannot be encoded"
SMALLER_MASKS = "masks compared below the image's size"


class SampleError(GLaMMError):
    """A sample contradicts itself or the model's sizes. Names the sample."""


@dataclass(frozen=True)
class TokenizedConversation:
    """Token ids of one conversation, with IMAGE_ID where the image stands.

    Attributes:
        token_ids: int[n].
        labels: int[n]; IGNORE_ID where nothing is predicted.
        first_box: index in the sample of the box of its first `<bbox>`. The original knows index 0
            only, so there one conversation of an image can refer to regions (quirk 17).
    """

    token_ids: np.ndarray
    labels: np.ndarray
    first_box: int = 0


@dataclass(frozen=True)
class Sample:
    """One preprocessed image with its conversations.

    Attributes:
        conversations: about the image.
        image: uint8[h, w, 3] for CLIP, or float, normalized; None: text only.
        grounding_image: uint8[s, s, 3] for SAM, padded, or float, normalized; None: no masks. All
            images of a batch have one dtype.
        resized_size: (height, width) of the image inside SAM's canvas.
        original_size: (height, width) of the original image; masks have this size.
        boxes_xyxy_unit: float[n, 4], one for each `<bbox>` of the conversations in order; None:
            `<bbox>` is a plain token and the region encoder does not run on this image.
        masks: uint8[k, h, w], one for each [SEG] of the conversations in order; None: unknown
            (inference); the losses then ignore its [SEG]s.
        name: "source id" of the record, for messages.
    """

    conversations: tuple[TokenizedConversation, ...]
    image: np.ndarray | None = None
    grounding_image: np.ndarray | None = None
    resized_size: tuple[int, int] = (0, 0)
    original_size: tuple[int, int] = (0, 0)
    boxes_xyxy_unit: np.ndarray | None = None
    masks: np.ndarray | None = None
    name: str = "sample"


def encode_examples(
    examples: Sequence[Example],
    tokenizer: Tokenizer,
    model: GLaMMConfig,
    shape: BatchShape,
    *,
    bare_image: bool = False,
) -> tuple[Sample | None, tuple[str, ...]]:
    """Encode conversations about one image as one sample.

    SAM's image is made only if there are masks, boxes are given only if there are some. A
    conversation is truncated to the tokens and targets of a row (quirk 32); masks and boxes that it
    no longer mentions are removed with its end.

    Args:
        examples: all hold the same image.
        tokenizer: of the model.
        model: sizes of the encoders.
        shape: `tokens` and `targets` limit a row.
        bare_image: put the image in front of the question without a sentence about it.

    Returns:
        The sample, or None if no conversation is left; and what happened to the conversations.
    """
    conversations, boxes, masks, notes = [], [], [], []
    num_boxes = 0
    for example in examples:
        encoded, note = encode_example(example, tokenizer, model, shape, bare_image=bare_image)
        notes += [f"{example.task}: {note}"] if note else []
        if encoded is None:
            continue
        turns, own_boxes, own_masks = encoded
        conversations.append(TokenizedConversation(turns.ids, turns.labels, num_boxes))
        boxes += [] if own_boxes is None else [own_boxes]
        masks += [] if own_masks is None else [own_masks]
        num_boxes += 0 if own_boxes is None else len(own_boxes)
    if not conversations:
        return None, tuple(notes)
    image = examples[0].image
    sample = Sample(
        tuple(conversations),
        boxes_xyxy_unit=np.concatenate(boxes) if boxes else None,
        name=f"{examples[0].source} {examples[0].id}",
    )
    if not masks:
        return replace(sample, image=clip_image(image, model.clip.image_size)), tuple(notes)
    all_masks = masks[0] if len(masks) == 1 else np.concatenate(masks)
    size = all_masks.shape[1:]
    notes += [SMALLER_MASKS] if size != image.shape[:2] else []
    clip, grounding = clip_and_grounding_images(image, model.clip.image_size, model.sam.image_size)
    sample = replace(
        sample,
        image=clip,
        grounding_image=grounding.pixels,
        resized_size=grounding.resized_size,
        original_size=size,
        masks=all_masks,
    )
    return sample, tuple(notes)


def encode_example(
    example: Example,
    tokenizer: Tokenizer,
    model: GLaMMConfig,
    shape: BatchShape,
    *,
    bare_image: bool,
) -> tuple[tuple[EncodedTurns, np.ndarray | None, np.ndarray | None] | None, str]:
    """Encode one conversation as far as it fits into a row.

    Args:
        example: the conversation.
        tokenizer: of the model.
        model: number of image patches, ids of special tokens.
        shape: `tokens` and `targets` limit a row.
        bare_image: put the image in front of the question without a sentence about it.

    Returns:
        (its ids and labels, the boxes and the masks that it still mentions), or None if it is
        dropped; and what happened to it, "" if nothing.
    """
    if not _has_no_reserved_tokens(example):
        return None, RESERVED_TOKEN
    question, *others = example.turns
    try:
        encoded = encode_turns([with_preamble(question, bare_image), *others], tokenizer)
    except LabelError:
        return None, NOT_ENCODED
    targets = np.flatnonzero(encoded.labels != IGNORE_ID)
    length = shape.tokens - (model.clip.num_patches - 1)
    if len(targets) > shape.targets:
        length = min(length, int(targets[shape.targets]))
    if len(encoded.ids) <= length:
        return (encoded, example.boxes_xyxy_unit, example.masks), ""
    end = max(length, 0)
    truncated = EncodedTurns(encoded.ids[:end], encoded.labels[:end])
    if (truncated.labels == IGNORE_ID).all():
        return None, NO_ANSWER_LEFT
    boxes = _mentioned(example.boxes_xyxy_unit, truncated.ids, model.tokens.region)
    masks = _mentioned(example.masks, truncated.ids, model.tokens.seg)
    return (truncated, boxes, masks), TRUNCATED


def _has_no_reserved_tokens(example: Example) -> bool:
    """Whether the text has one token for every box and mask and no other special token."""
    text = "\n".join(example.turns)
    counts = ((SEG, example.masks), (REGION, example.boxes_xyxy_unit))
    agree = all(
        text.count(token) == (0 if items is None else len(items)) for token, items in counts
    )
    return agree and not any(token in text for token in (IMAGE_PLACEHOLDER, IMAGE_START, IMAGE_END))


def _mentioned(items: np.ndarray | None, ids: np.ndarray, token: int) -> np.ndarray | None:
    """The items whose tokens are among the ids; None if there are none."""
    count = int((ids == token).sum())
    return items[:count] if items is not None and count else None


def check_sample(sample: Sample, config: GLaMMConfig, dtype: np.dtype | None) -> None:
    """Refuse a sample that a batch cannot hold.

    Args:
        sample: to be checked.
        config: sizes of the model.
        dtype: of the images that are already in the batch; None: there are none.

    Raises:
        SampleError: names the sample and what is wrong with it.
    """
    problem = (
        _conversation_problem(sample, config)
        or _image_problem(sample, config, dtype)
        or _box_problem(sample)
        or _mask_problem(sample)
    )
    if problem:
        raise SampleError(f"{sample.name}: {problem}")


def _conversation_problem(sample: Sample, config: GLaMMConfig) -> str | None:
    vocab = config.llama.vocab_size
    for conversation in sample.conversations:
        ids, labels = np.asarray(conversation.token_ids), np.asarray(conversation.labels)
        if ids.shape != labels.shape or ids.ndim != 1:
            return f"ids of shape {ids.shape} with labels of shape {labels.shape}; [n] each"
        if sample.image is None and (ids == IMAGE_ID).any():
            return "a conversation has an image token, but the sample has no image"
        is_text = ids != IMAGE_ID
        is_target = is_text & (labels != IGNORE_ID)
        for kind, values in (("id", ids[is_text]), ("label", labels[is_target])):
            outside = values[(values < 0) | (values >= vocab)]
            if outside.size:
                return f"{kind} {int(outside[0])} is outside the vocabulary of {vocab}"
    return None


def _image_problem(sample: Sample, config: GLaMMConfig, dtype: np.dtype | None) -> str | None:
    canvas = config.sam.image_size
    for name, image, side in (
        ("image", sample.image, config.clip.image_size),
        ("grounding_image", sample.grounding_image, canvas),
    ):
        if image is None:
            continue
        if image.shape != (side, side, 3):
            return f"{name} of shape {image.shape}, but the model takes {(side, side, 3)}"
        dtype = image.dtype if dtype is None else dtype
        if image.dtype != dtype:
            return f"{name} of {image.dtype} in a batch whose images are {dtype}"
    if sample.grounding_image is None:
        return None
    if not all(1 <= size <= canvas for size in sample.resized_size):
        return f"resized_size {sample.resized_size} is not inside the canvas of {canvas} x {canvas}"
    if min(sample.original_size) < 1:
        return f"original_size {sample.original_size} is empty"
    return None


def _box_problem(sample: Sample) -> str | None:
    boxes = sample.boxes_xyxy_unit
    if boxes is None:
        return None
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        return f"boxes of shape {boxes.shape}; four numbers each"
    if len(boxes) and sample.image is None:
        return f"{len(boxes)} boxes without an image"
    return None


def _mask_problem(sample: Sample) -> str | None:
    if sample.masks is None or not len(sample.masks):
        return None
    if sample.grounding_image is None:
        return f"{len(sample.masks)} masks without a grounding_image to predict them from"
    expected = tuple(sample.original_size)
    for mask in sample.masks:
        if mask.shape != expected:
            return f"a mask of shape {mask.shape}, but the original size is {expected}"
    return None
