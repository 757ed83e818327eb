"""SAM: masks of boxes, and masks of everything from a grid of points.

Source: segment_anything/predictor.py, automatic_mask_generator.py. Differs: the image is one crop
(`crop_n_layers` is 0 there, too), and the overlap of boxes counts their last row and column.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32

from glamm_jax.data import rle
from glamm_jax.errors import ConfigError
from glamm_jax.grand.adapters.jax_models.model_role import ModelRole
from glamm_jax.grand.adapters.usable_images import answer_usable
from glamm_jax.grand.geometry import suppress
from glamm_jax.grand.options import MergeOptions
from glamm_jax.grand.record import Box, Detection, RunLengths
from glamm_jax.grand.roles import Results, RoleImage
from glamm_jax.inference.sam_predictor import SAMPredictor

STABILITY_OFFSET = 1.0  # of the mask logits


class SAMRole(ModelRole[SAMPredictor]):
    """A role of SAM; its arguments are those of `ModelRole`."""

    def load(self) -> SAMPredictor:
        """Return the model."""
        return SAMPredictor(self._path, self.dtype)


class SAMSegmenter(SAMRole):
    """The mask of each box; plays `segmenter`.

    Args:
        model: a model folder of SAM or of GLaMM.
        name: of the model.
        dtype: of the weights and of the computation; "": as stored.
        batch_size: images of a call; each is encoded by itself.
    """

    def __init__(self, model: str, name: str = "sam", dtype: str = "", batch_size: int = 8):
        super().__init__(name, model, dtype, batch_size)

    def __call__(
        self, images: Sequence[RoleImage], boxes: Sequence[Sequence[Box]]
    ) -> Results[list[RunLengths]]:
        return answer_usable(images, lambda *inputs: [*map(self._masks, *inputs)], boxes)

    def _masks(self, image: RoleImage, boxes: Sequence[Box]) -> list[RunLengths]:
        if not len(boxes):
            return []
        encoded = self.model.encode(image.pixels)
        decoded = self.model.decode(encoded, boxes=boxes)
        masks = self.model.masks(encoded, decoded.logits[:, 0]).masks
        return [rle.encode(mask) for mask in masks]


class SAMProposer(SAMRole):
    """Masks of everything in an image; plays `region_proposer`.

    Each point of a grid is a prompt with several masks. Those remain that SAM itself finds good,
    that are stable, and whose box no better mask has.

    Args:
        model: a model folder of SAM or of GLaMM.
        name: of the model.
        dtype: of the weights and of the computation; "": as stored.
        batch_size: images of a call; each is encoded by itself.
        points_per_side: of the grid.
        min_iou: smallest IoU that SAM estimates.
        min_stability: smallest IoU of the mask at two thresholds.
        nms_iou: a mask is dropped whose box overlaps that of a better one more.
        min_area: smallest mask in pixels.
    """

    def __init__(
        self,
        model: str,
        name: str = "sam",
        dtype: str = "",
        batch_size: int = 8,
        points_per_side: int = 32,
        min_iou: float = 0.88,
        min_stability: float = 0.95,
        nms_iou: float = 0.7,
        min_area: int = 1,
    ):
        limits = {"min_iou": min_iou, "min_stability": min_stability, "nms_iou": nms_iou}
        for key, value in limits.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"{key} = {value!r}: must be from 0 to 1")
        for key, number in {"points_per_side": points_per_side, "min_area": min_area}.items():
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigError(f"{key} = {number!r}: must be an integer of at least 1")
        settings = {**limits, "points_per_side": points_per_side, "min_area": min_area}
        super().__init__(name, model, dtype, batch_size, **settings)
        self._min_iou, self._min_stability, self._nms_iou = min_iou, min_stability, nms_iou
        self._points, self._min_area = points_per_side, min_area

    def __call__(self, images: Sequence[RoleImage]) -> Results[list[Detection]]:
        return answer_usable(images, lambda usable: [*map(self._proposals, usable)])

    def _proposals(self, image: RoleImage) -> list[Detection]:
        height, width = image.pixels.shape[:2]
        encoded = self.model.encode(image.pixels)
        points = point_grid(self._points) * np.array([width, height], np.float32)
        decoded = self.model.decode(encoded, points=points, multimask=True)
        likely = decoded.iou > self._min_iou
        masks = self.model.masks(encoded, decoded.logits[likely], STABILITY_OFFSET)
        proposals = []
        for mask, iou, stability in zip(
            masks.masks, decoded.iou[likely].tolist(), masks.stability.tolist(), strict=True
        ):
            if stability < self._min_stability:
                continue
            runs = rle.encode(mask)
            box = rle.box(runs)
            if box is not None and rle.area(runs) >= self._min_area:
                x0, y0, x1, y1 = map(float, box)
                proposals.append(Detection((x0, y0, x1, y1), min(1.0, iou), mask=runs))
        return suppress(proposals, MergeOptions(min_score=0.0, nms_iou=self._nms_iou))


def point_grid(side: int) -> Float32[np.ndarray, "n 2"]:
    """Return the centres of side x side cells, x and y in [0, 1], row by row."""
    centres = ((np.arange(side) + 0.5) / side).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    return np.stack([x.reshape(-1), y.reshape(-1)], 1)
