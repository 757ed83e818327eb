"""Recorded inputs of an e2e case to samples and batches."""

from __future__ import annotations

import numpy as np

from glamm_jax.config import GLaMMConfig
from glamm_jax.data.pack import Row, Sample
from glamm_jax.parity.report import Recorded


def samples_of(recorded: Recorded, *, with_boxes: bool = True) -> list[Sample]:
    """The samples of a case; every `in/` array that is read is settled as input.

    Rows of `input_ids` belong to images by `offset`; boxes pass in the dtype given by the case.
    """
    ids, labels = recorded.input("in/input_ids"), recorded.input("in/labels")
    offset = recorded.input("in/offset")
    images = nhwc(recorded.input("in/clip_pixels"))
    grounding = nhwc(recorded.input("in/sam_pixels")) if "in/sam_pixels" in recorded else None
    resized, original = recorded.get("in/resize_hw"), recorded.get("in/orig_hw")
    boxed = with_boxes and bool(recorded.names_under("in/bboxes"))
    samples = []
    for i in range(len(offset) - 1):
        boxes, masks = f"in/bboxes{i}", f"in/gt_mask{i}"
        truth = recorded.input(masks) if masks in recorded else None
        box_array = recorded.input(boxes) if boxes in recorded else np.zeros((0, 4), np.float32)
        rows = range(offset[i], offset[i + 1])
        samples.append(
            Sample(
                rows=tuple(Row(ids[row], labels[row]) for row in rows),
                image=images[i],
                grounding_image=None if grounding is None else grounding[i],
                resized_size=tuple(int(n) for n in resized[i]),
                original_size=tuple(int(n) for n in original[i]),
                boxes_xyxy_unit=box_array if boxed else None,
                masks=truth,
                name=f"{recorded.file} sample {i}",
            )
        )
    return samples


def check_inputs(recorded: Recorded, config: GLaMMConfig) -> None:
    """Compare what follows from other inputs: the id mask and SAM's resized sizes."""
    ids = recorded.get("in/input_ids")
    recorded.compare("in/attention_mask", ids != config.tokens.pad, "exact")
    original = recorded.input("in/orig_hw")
    resized = [resized_size(h, w, config.sam.image_size) for h, w in original]
    recorded.compare("in/resize_hw", np.asarray(resized).reshape(-1, 2), "exact")


def resized_size(height: int, width: int, canvas: int) -> tuple[int, int]:
    """SAM's size of an image whose longest side becomes the canvas, rounded half up."""
    scale = canvas / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(x, 1, -1))


def nchw(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)
