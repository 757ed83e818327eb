"""Masks of boxes that a person draws, by the model of the role `segmenter`."""

from __future__ import annotations

import threading

import numpy as np

from glamm_jax.data import rle
from glamm_jax.errors import GLaMMError
from glamm_jax.grand.levels.sections import OutputError, check_mask
from glamm_jax.grand.record import Box, RunLengths
from glamm_jax.grand.roles import Pixels, RoleError, RoleImage, Segmenter
from glamm_jax.grand.stages import one_line


class SegmentationError(GLaMMError):
    """There is no mask for a box. Says why."""


class BoxSegmenter:
    """Calls a segmenter for one box at a time; threads may share it."""

    def __init__(self, role: Segmenter):
        """Load the model.

        Args:
            role: the model.
        """
        self._role, self._lock = role, threading.Lock()
        role.setup()

    @property
    def name(self) -> str:
        """Name of the model."""
        return self._role.name

    def mask(self, image_id: str, pixels: Pixels, box: Box) -> RunLengths:
        """Return the mask of what is in a box.

        Args:
            image_id: of the image.
            pixels: of the image.
            box: x0 y0 x1 y1 in pixels.

        Raises:
            SegmentationError: the model failed, or found nothing.
        """
        height, width = pixels.shape[:2]
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise SegmentationError("the box is not in the image")
        try:
            with self._lock:
                results = self._role([RoleImage(image_id, pixels)], [[box]])
            result = results[0]
        except Exception as error:  # the code of a model may raise anything
            raise SegmentationError(
                f"{self.name}: {type(error).__name__}: {one_line(error)}"
            ) from error
        if isinstance(result, RoleError):
            raise SegmentationError(f"{self.name}: {result.message}")
        try:
            (runs,) = result
            check_mask(runs, (width, height))
        except (OutputError, ValueError, TypeError) as error:
            raise SegmentationError(f"{self.name}: {one_line(error)}") from error
        mask = rle.decode(runs)
        if not np.any(mask):
            raise SegmentationError(f"{self.name} found nothing in this box; draw another one")
        return rle.encode(mask)
