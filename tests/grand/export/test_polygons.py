"""Polygons along the borders of masks."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from scipy import ndimage

from glamm_jax.grand.export.polygons import joined, mask_polygons, object_polygon, simplify


def _area(points: Any) -> float:
    x, y = points.T
    return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2


def _filled(polygons: Any, shape: tuple[int, int]) -> Any:
    """Pixels with an odd number of vertical edges to their left."""
    counts = np.zeros(shape, int)
    for points in polygons:
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, 0), strict=True):
            if x0 == x1:
                counts[min(y0, y1) : max(y0, y1), x0:] += 1
    return counts % 2 == 1


@pytest.mark.parametrize("seed", range(40))
def test_polygons_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 12, 2)
    mask = rng.random((height, width)) < rng.random()
    polygons = mask_polygons(mask)
    assert np.array_equal(_filled(polygons, mask.shape), mask)
    areas = [_area(points) for points in polygons]
    assert sum(areas) == mask.sum()
    assert sum(area > 0 for area in areas) == ndimage.label(mask)[1]
    assert [tuple(p[0][::-1]) for p in polygons] == sorted(tuple(p[0][::-1]) for p in polygons)


def test_pixels_that_meet_at_a_corner() -> None:
    for mask in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        assert [_area(points) for points in mask_polygons(mask)] == [1, 1]
        # The two holes of the inverse meet at the corner, and are one.
        inverse = np.pad(~mask, 1, constant_values=True)
        assert [_area(points) for points in mask_polygons(inverse)] == [16, -2]


def test_one_polygon_for_parts_and_holes() -> None:
    mask = np.zeros((40, 60), bool)
    mask[2:20, 3:30] = True
    mask[6:12, 8:20] = False
    mask[25:38, 40:55] = True
    polygons = mask_polygons(mask)
    assert [points.tolist() for points in polygons] == [
        [[3, 2], [30, 2], [30, 20], [3, 20]],
        [[8, 6], [8, 12], [20, 12], [20, 6]],
        [[40, 25], [55, 25], [55, 38], [40, 38]],
    ]
    points = joined([polygon.astype(float) for polygon in polygons])
    assert _area(points) == mask.sum()
    assert len(points) == 4 + 2 * (4 + 2)
    scale = 4  # cv2 fills the pixels of the border as well
    canvas = np.zeros((40 * scale, 60 * scale), np.uint8)
    cv2.fillPoly(canvas, [(points * scale).astype(np.int32)], 1)
    assert np.array_equal(canvas[2::scale, 2::scale] > 0, mask)


def test_simplified_polygons_stay_close() -> None:
    y, x = np.mgrid[:200, :300]
    mask = (y - 90) ** 2 + (x - 150) ** 2 < 80**2
    exact, simple = object_polygon(mask, 0), object_polygon(mask, 1.0)
    assert exact is not None and simple is not None
    assert len(exact) > 300 and len(simple) < 40
    canvas = np.zeros(mask.shape, np.uint8)
    cv2.fillPoly(canvas, [np.round(simple).astype(np.int32)], 1)
    union = ((canvas > 0) | mask).sum()
    assert ((canvas > 0) & mask).sum() / union > 0.98


def test_small_masks() -> None:
    assert object_polygon(np.zeros((3, 4), bool), 1.0) is None
    one = np.zeros((3, 4), bool)
    one[1, 2] = True
    points = object_polygon(one, 5.0)
    assert points is not None and points.tolist() == [[2, 1], [3, 1], [3, 2], [2, 2]]
    line = np.array([[0.0, 0.0], [1.0, 0.1], [2.0, 0.0], [3.0, 0.1], [4.0, 0.0]])
    assert len(simplify(line, 1.0)) >= 3
