"""Recorded inputs of an e2e case, as samples; comparison of the inputs that can be computed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.encode import Sample, TokenizedConversation
from glamm_jax.data.preprocess import grounding_size
from glamm_jax.testing import golden_weights
from glamm_jax.text.special_tokens import IGNORE_ID
from tools.parity.report import RecordedFile

# Side, in pixels, of the constant blocks of a generated image.
PIXEL_BLOCKS = {"clip": 8, "sam": 16}


def read_samples(recorded: RecordedFile, *, with_boxes: bool = True) -> list[Sample]:
    """Read the samples of a case and exclude the `in/` arrays that `check_inputs` cannot compare.

    `offset` assigns the rows of `input_ids` to images. Boxes keep their recorded dtype.
    """
    ids, labels = recorded.input("in/input_ids"), recorded.get("in/labels")
    offset = recorded.input("in/offset")
    images = nhwc(recorded.get("in/clip_pixels"))
    grounding = nhwc(recorded.get("in/sam_pixels")) if "in/sam_pixels" in recorded else None
    resized, original = recorded.get("in/resize_hw"), recorded.get("in/orig_hw")
    has_boxes = with_boxes and bool(recorded.names_under("in/bboxes"))
    samples = []
    for i in range(len(offset) - 1):
        boxes, masks = f"in/bboxes{i}", f"in/gt_mask{i}"
        reference_masks = recorded.input(masks) if masks in recorded else None
        box_array = recorded.input(boxes) if boxes in recorded else np.zeros((0, 4), np.float32)
        rows = range(offset[i], offset[i + 1])
        samples.append(
            Sample(
                conversations=tuple(TokenizedConversation(ids[row], labels[row]) for row in rows),
                image=images[i],
                grounding_image=None if grounding is None else grounding[i],
                resized_size=(int(resized[i][0]), int(resized[i][1])),
                original_size=(int(original[i][0]), int(original[i][1])),
                boxes_xyxy_unit=box_array if has_boxes else None,
                masks=reference_masks,
                name=f"{recorded.file} sample {i}",
            )
        )
    return samples


def check_inputs(
    recorded: RecordedFile, config: GLaMMConfig, names: Sequence[str] = (), salt: str = ""
) -> None:
    """Compare the inputs that follow from others: id mask, labels, SAM's sizes, random pixels.

    Args:
        recorded: the file.
        config: configuration of the model.
        names: pixels may have been generated under the names `NAME:clip` and `NAME:sam` of these.
        salt: of the generated pixels.
    """
    ids, labels = recorded.get("in/input_ids"), recorded.get("in/labels")
    recorded.compare("in/attention_mask", ids != config.tokens.pad, "exact")
    # Which ids are learned is an input; every label is the id or IGNORE_ID.
    recorded.compare("in/labels", np.where(labels == IGNORE_ID, IGNORE_ID, ids), "exact")
    original = recorded.input("in/orig_hw")
    resized = [grounding_size(h, w, config.sam.image_size) for h, w in original.tolist()]
    recorded.compare("in/resize_hw", np.asarray(resized).reshape(-1, 2), "exact")
    for part, block in PIXEL_BLOCKS.items():
        if f"in/{part}_pixels" in recorded:
            _check_pixels(recorded, part, block, [f"{name}:{part}" for name in names], salt)


def _check_pixels(
    recorded: RecordedFile, part: str, block: int, names: list[str], salt: str
) -> None:
    """Compare pixels that a golden-weight rule generates; exclude others as inputs.

    The rule is not documented for these files, so it is taken to apply if more than 90 % of the
    array agree.
    """
    name = f"in/{part}_pixels"
    pixels = recorded.get(name)
    inside = pixels != 0  # SAM's padding is zero
    for candidate in names:
        image = np.where(inside, golden_weights.blocky(candidate, pixels.shape, block, salt), 0)
        if np.mean(np.abs(image - pixels) <= 1e-6, where=inside) > 0.9:
            recorded.compare(name, image, "input")
            return
    recorded.exclude(name, "input; not generated under a known name")


def nhwc(x: np.ndarray) -> np.ndarray:
    """Move the channels from the second to the last axis."""
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def nchw(x: np.ndarray) -> np.ndarray:
    """Move the channels from the last to the second axis, as in torch."""
    return np.moveaxis(np.asarray(x), -1, 1)
