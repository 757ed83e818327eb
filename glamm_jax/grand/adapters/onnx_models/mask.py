"""Models of a foreground probability for each pixel: of persons, or of what stands out.

    proposer = ONNXMaskProposer("selfie.toml", "selfie")        # classes = ["person"]
    proposer([RoleImage("a.jpg", pixels)])[0][0].mask           # run lengths

Each connected part of the foreground is a region.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from glamm_jax.data import rle
from glamm_jax.grand.adapters.onnx_models.decoding import (
    Outputs,
    OutputShapeError,
    probabilities,
    softmax,
)
from glamm_jax.grand.adapters.onnx_models.described_model import DescribedModel
from glamm_jax.grand.adapters.onnx_models.description import (
    ModelDescription,
    OutputDescription,
)
from glamm_jax.grand.adapters.onnx_models.images import PreparedImage
from glamm_jax.grand.record import Box, Detection, RunLengths
from glamm_jax.grand.roles import Results, RoleImage


class ONNXMaskProposer(DescribedModel):
    """A proposer of the regions of a mask; arguments as of `DescribedModel`."""

    decodings = ("mask",)

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        return self.answer_each(images)

    def answer(self, outputs: Outputs, image: PreparedImage) -> list[Detection]:
        """Return the regions of one image; see `mask_regions`.

        Args:
            outputs: of the model.
            image: its input.
        """
        return mask_regions(outputs, self.description, image)


class ONNXMaskSegmenter(DescribedModel):
    """A segmenter: the foreground in each box; arguments as of `DescribedModel`."""

    decodings = ("mask",)

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[RunLengths]]:
        return self.answer_each(
            images, lambda place, outputs, image: self._masks(outputs, image, boxes[place])
        )

    def answer(self, outputs: Outputs, image: PreparedImage) -> list[RunLengths]:
        """Return the mask of the complete image.

        Args:
            outputs: of the model.
            image: its input.
        """
        width, height = image.size
        return self._masks(outputs, image, [(0.0, 0.0, float(width), float(height))])

    def _masks(
        self, outputs: Outputs, image: PreparedImage, boxes: Sequence[Box]
    ) -> list[RunLengths]:
        options = self.description.output
        is_foreground = foreground(outputs, options, image) >= options.threshold
        masks = []
        for x0, y0, x1, y1 in boxes:
            mask = np.zeros_like(is_foreground)
            part = np.s_[
                max(0, round(y0)) : max(0, round(y1)), max(0, round(x0)) : max(0, round(x1))
            ]
            mask[part] = is_foreground[part]
            masks.append(rle.encode(mask))
        return masks


def mask_regions(
    outputs: Outputs, description: ModelDescription, image: PreparedImage
) -> list[Detection]:
    """Return the connected parts of the foreground, the largest first.

    The score of a region is the mean probability of its pixels.

    Args:
        outputs: of the model.
        description: of the model; its first class is the label.
        image: the input.

    Raises:
        OutputShapeError: as in `foreground`.
    """
    options = description.output
    values = foreground(outputs, options, image)
    parts = np.zeros(values.shape, np.int32)
    ndimage.label(values >= options.threshold, output=parts)
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    regions = []
    for number in np.argsort(-sizes, kind="stable").tolist():
        if sizes[number] < max(1, options.min_area * parts.size):
            break
        mask = parts == number
        score = float(np.clip(values[mask].mean(dtype=np.float64), 0.0, 1.0))
        if score >= description.min_score:
            label = description.classes[0]
            regions.append(Detection(mask_box(mask), score, label, mask=rle.encode(mask)))
    return regions[: description.max_detections]


def foreground(
    outputs: Outputs, options: OutputDescription, image: PreparedImage
) -> Float32[np.ndarray, "h w"]:
    """Return the probability of the foreground at the size of the photograph.

    Args:
        outputs: of the model: [h, w], [c, h, w] or [h, w, c], with an axis of 1 for the batch.
        options: activation and channel of the foreground.
        image: the input.

    Raises:
        OutputShapeError: it has another shape, or no probabilities.
    """
    assert options.mask is not None
    array = np.asarray(outputs[options.mask], np.float64)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 3 and array.shape[0] == 1 and options.foreground == 0:
        array = array[0]
    if array.ndim == 2:
        array = array[:, :, None]
    elif array.ndim == 3 and array.shape[0] < array.shape[2]:
        array = array.transpose(1, 2, 0)
    if array.ndim != 3 or options.foreground >= array.shape[2] or not array.size:
        raise OutputShapeError(
            f"output {options.mask!r} has the shape {list(np.shape(outputs[options.mask]))}; "
            f"[height, width] with channel {options.foreground} is due"
        )
    if options.activation == "softmax":
        if not np.isfinite(array).all():
            raise OutputShapeError("a mask has values that are not finite")
        values = softmax(array)[:, :, options.foreground]
    else:
        values = probabilities(array[:, :, options.foreground], options.activation)
    return np.clip(image.map_to_image(values.astype(np.float32)), 0.0, 1.0)


def mask_box(mask: Bool[np.ndarray, "h w"]) -> Box:
    """Return the box of a mask that is not empty, x0 y0 x1 y1."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
