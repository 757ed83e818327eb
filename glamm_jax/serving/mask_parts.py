"""Which masks are decoded together: those of several images, within a bound of pixels."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glamm_jax.data.collate import bucket
from glamm_jax.inference.mask_programs import GroundingInputs
from glamm_jax.serving.jobs import AnswerJob

MASK_PIXELS = 1 << 26  # of the masks that are resized together, or those of one [SEG]
IMAGE_MASKS = 4  # masks of an image that are decoded, padding included; more if it has more


@dataclass(eq=False)
class SegBatch:
    """[SEG]s of one finished question whose masks are not decoded yet.

    Attributes:
        job: the question.
        steps: index of each [SEG] in the answer; -1: in the prompt.
        hidden: the hidden states that emitted them, [m, d].
        probability: of the tokens of each [SEG] and its phrase.
    """

    job: AnswerJob
    steps: np.ndarray
    hidden: np.ndarray
    probability: np.ndarray


class MaskPart(NamedTuple):
    """[SEG]s that are decoded now; `is_last`: their question has no more of them."""

    segs: SegBatch
    is_last: bool


class MaskInputs(NamedTuple):
    """The input of `Generator.decode_masks`, padded to one of few shapes."""

    hidden: np.ndarray
    mask_image: np.ndarray
    images: GroundingInputs


def next_parts(waiting: deque[SegBatch], max_images: int) -> list[MaskPart]:
    """Take from the queue what is decoded together next.

    Args:
        waiting: the oldest first; what is taken is removed.
        max_images: that are encoded together.
    """
    parts: list[MaskPart] = []
    count = largest = 0
    while waiting and len(parts) < max_images:
        first, rest = _split(waiting[0])
        count, largest = count + len(first.steps), max(largest, mask_pixels(first.job))
        if parts and count * largest > MASK_PIXELS:
            break
        waiting.popleft()
        parts.append(MaskPart(first, rest is None))
        if rest is not None:
            waiting.appendleft(rest)
            break
    return parts


def mask_inputs(parts: Sequence[SegBatch], max_images: int, divisor: int) -> MaskInputs:
    """Return the input of the mask decoder.

    It has one image or `max_images`, so that few programs are compiled. Images without a mask would
    be left out, so each image of padding has a mask.

    Args:
        parts: [SEG]s, those of one image together.
        max_images: that are encoded together.
        divisor: of the number of masks.
    """
    num_images = 1 if len(parts) == 1 else max_images
    samples = [part.job.sample for part in parts]
    samples += [samples[0]] * (num_images - len(parts))
    images = GroundingInputs(
        np.stack([np.asarray(sample.grounding_image) for sample in samples]),
        np.array([sample.resized_size for sample in samples], np.int32),
        np.array([sample.original_size for sample in samples], np.int32),
    )
    mask_image = np.repeat(np.arange(len(parts)), [len(part.steps) for part in parts])
    mask_image = np.concatenate([mask_image, np.arange(len(parts), num_images)])
    hidden = np.concatenate([part.hidden for part in parts])
    affordable = MASK_PIXELS // max(mask_pixels(part.job) for part in parts)
    count = max(len(mask_image), min(num_images * IMAGE_MASKS, affordable))
    count = -(-bucket(count, 1) // divisor) * divisor
    padding = np.repeat(hidden[:1], count - len(hidden), axis=0)
    return MaskInputs(np.concatenate([hidden, padding]), mask_image, images)


def mask_pixels(job: AnswerJob) -> int:
    """Return the pixels of a mask as it is resized, rounded up."""
    height, width = job.row.image.shape[:2]
    return bucket(height, 1) * bucket(width, 1)


def _split(segs: SegBatch) -> tuple[SegBatch, SegBatch | None]:
    """Return as many [SEG]s of an image as fit, and the rest of them."""
    count = max(1, MASK_PIXELS // mask_pixels(segs.job))
    if len(segs.steps) <= count:
        return segs, None
    first, rest = (
        SegBatch(segs.job, segs.steps[part], segs.hidden[part], segs.probability[part])
        for part in (slice(count), slice(count, None))
    )
    return first, rest
