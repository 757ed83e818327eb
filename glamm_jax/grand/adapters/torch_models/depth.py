"""Depth estimators: DPT, Depth Anything, ZoeDepth and their like.

Source: the documentation of transformers, `AutoModelForDepthEstimation`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float32

from glamm_jax.grand.adapters.torch_models.adapter import (
    NOT_FINITE,
    TransformersAdapter,
    image_size,
    is_finite,
)
from glamm_jax.grand.roles import Results, RoleImage

MIN_METRES = 1e-3  # of which the inverse is taken
# Types whose models always estimate distances in metres.
_METRIC_TYPES = ("glpn", "zoedepth")
_RELATIVE_TYPES = ("depth_anything", "dpt")


@dataclass(eq=False, kw_only=True)
class TransformersDepthEstimator(TransformersAdapter):
    """Inverse depth of each pixel.

    Attributes:
        metric: whether the model estimates distances, of which the inverse is taken; None: as its
            configuration says.
    """

    model: str = "Intel/dpt-beit-large-512"
    metric: bool | None = None

    role: ClassVar[str] = "a depth estimator"
    auto_class: ClassVar[str] = "AutoModelForDepthEstimation"
    only_types: ClassVar[tuple[str, ...]] = (*_RELATIVE_TYPES, *_METRIC_TYPES)
    processor_class: ClassVar[str] = "AutoImageProcessor"

    def _prepare(self) -> None:
        self._is_metric = self.metric
        if self.metric is None:
            kind = getattr(self._config, "depth_estimation_type", "relative")
            self._is_metric = self._config.model_type in _METRIC_TYPES or kind == "metric"

    def __call__(self, images: Sequence[RoleImage]) -> Results[Float32[np.ndarray, "h w"]]:
        """Return the inverse depth of each pixel; larger is nearer."""
        return self.answer_usable(images, self._answer)

    def _answer(self, images: Sequence[RoleImage]) -> list[Any]:
        results: list[Any] = [None] * len(images)
        inputs = [self.image_inputs(image) for image in images]
        for places, arrays in self.batches(inputs, len(images)):
            depths = self.run(self._network, **arrays).predicted_depth.float()
            for depth, place in zip(depths, places, strict=True):
                results[place] = self._inverse_depth(depth, image_size(images[place]))
        return results

    def _inverse_depth(self, depth: torch.Tensor, size: tuple[int, int]) -> Any:
        """Return the map at the size of the image."""
        if not is_finite(depth):
            return NOT_FINITE
        if self._is_metric:
            depth = depth.clamp(min=MIN_METRES).reciprocal()
        resized = torch.nn.functional.interpolate(
            depth[None, None], size, mode="bicubic", align_corners=False
        )
        return resized[0, 0].cpu().numpy().copy()
