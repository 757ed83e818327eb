"""Drawn polygons have the pixels that OpenCV draws."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from glamm_jax.data.sources.drawn_polygon import polygon_pixels


def drawn(corners: np.ndarray, height: int, width: int) -> np.ndarray:
    pixels = np.zeros((height, width), np.uint8)
    points = corners.astype(np.int32)[None]
    cv2.polylines(pixels, points, True, 1, 1)
    cv2.fillPoly(pixels, points, 1)
    return pixels > 0


@pytest.mark.parametrize("seed", range(60))
def test_pixels_are_those_of_opencv(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(x) for x in rng.integers(20, 120, 2))
    count = int(rng.integers(1, 25))
    if seed % 2:  # crosses itself
        corners = rng.integers(0, (width, height), (count, 2))
    else:
        angles = np.sort(rng.random(count)) * 2 * np.pi
        radii = rng.uniform(0.2, 0.99, count)
        corners = np.stack(
            [width / 2 * (1 + radii * np.cos(angles)), height / 2 * (1 + radii * np.sin(angles))], 1
        ).astype(np.int64)
    np.testing.assert_array_equal(
        polygon_pixels(corners, height, width), drawn(corners, height, width)
    )


def test_what_is_outside_of_the_image_is_cut() -> None:
    corners = np.array([[-10, -10], [50, -10], [50, 50], [-10, 50]])
    assert polygon_pixels(corners, 20, 30).all()
    assert not polygon_pixels(corners + 100, 20, 30).any()
