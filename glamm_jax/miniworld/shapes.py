"""Outlines of objects as signed distances in pixels, negative inside: a mask is `distance < 0`.

Every shape fits into the circle around (0, 0) with the object's radius, up to a factor of REACH; y
points down. Near the outline the distance is exact, which gives antialiased edges and bevels. Far
from it, at corners, it may be too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "h w"]
SIN_60 = 0.75**0.5  # of 60 degrees
STAR_ANGLE = math.pi / 5  # half the angle between two tips of a star
STAR_NOTCH = 0.46  # distance of a star's notches from its centre, in radii
HEART_LOBE = 0.5**0.5 / 2  # radius of a heart's lobes, in its own scale
REACH = 1.09  # largest distance of an outline from the centre, in radii


class ObjectShape(NamedTuple):
    """Geometry of a shape; lengths are in radii.

    Attributes:
        distance: function of x, y and radius that returns signed distances.
        bottom: how far the lowest point is below the centre.
        flat_top: how far a flat top is above the centre; None: nothing can stand on the shape.
    """

    distance: Callable[[Plane, Plane, float], Plane]
    bottom: float
    flat_top: float | None = None


def _circle(x: Plane, y: Plane, r: float) -> Plane:
    return np.sqrt(x * x + y * y) - 0.92 * r


def _square(x: Plane, y: Plane, r: float) -> Plane:
    corner = 0.12 * r
    right, down = np.abs(x) - (0.8 * r - corner), np.abs(y) - (0.8 * r - corner)
    outside = np.sqrt(np.maximum(right, 0) ** 2 + np.maximum(down, 0) ** 2)
    return outside + np.minimum(np.maximum(right, down), 0) - corner


def _triangle(x: Plane, y: Plane, r: float) -> Plane:
    low = y - 0.2 * r  # the triangle's centroid is below the circle's centre
    return np.maximum(low, SIN_60 * np.abs(x) - 0.5 * low) - 0.46 * r


def _star(x: Plane, y: Plane, r: float) -> Plane:
    angle = np.abs((np.arctan2(x, -y) + STAR_ANGLE) % (2 * STAR_ANGLE) - STAR_ANGLE)
    distance = np.sqrt(x * x + y * y)
    along, aside = distance * np.cos(angle) - r, distance * np.sin(angle)
    # The edge from a tip, now at (0, 0), to the notch beside it.
    edge_along, edge_aside = (
        STAR_NOTCH * r * math.cos(STAR_ANGLE) - r,
        STAR_NOTCH * r * math.sin(STAR_ANGLE),
    )
    length = math.hypot(edge_along, edge_aside)
    return (along * (edge_aside / length) - aside * (edge_along / length)).astype(x.dtype)


def _heart(x: Plane, y: Plane, r: float) -> Plane:
    scale = 1 / (1.45 * r)
    right, up = np.abs(x) * scale, 0.58 - y * scale
    lobe = np.sqrt((right - 0.25) ** 2 + (up - 0.75) ** 2) - HEART_LOBE
    nearest = 0.5 * np.maximum(right + up, 0)
    squared = np.minimum(right**2 + (up - 1) ** 2, (right - nearest) ** 2 + (up - nearest) ** 2)
    return np.where(right + up > 1, lobe, np.sqrt(squared) * np.sign(right - up)) / scale


def _ring(x: Plane, y: Plane, r: float) -> Plane:
    return np.abs(np.sqrt(x * x + y * y) - 0.66 * r) - 0.28 * r


def _cross(x: Plane, y: Plane, r: float) -> Plane:
    right, down = np.abs(x), np.abs(y)
    vertical = np.maximum(right - 0.32 * r, down - 0.9 * r)
    return np.minimum(vertical, np.maximum(right - 0.9 * r, down - 0.32 * r))


def _diamond(x: Plane, y: Plane, r: float) -> Plane:
    return (1.3 * np.abs(x) + np.abs(y) - 0.98 * r) * (1 / math.hypot(1.3, 1))


def _moon(x: Plane, y: Plane, r: float) -> Plane:
    shifted = x + 0.18 * r
    cutout = 0.76 * r - np.sqrt((shifted - 0.52 * r) ** 2 + (y + 0.1 * r) ** 2)
    return np.maximum(np.sqrt(shifted**2 + y * y) - 0.9 * r, cutout)


SHAPES: dict[str, ObjectShape] = {
    "circle": ObjectShape(_circle, 0.92),
    "square": ObjectShape(_square, 0.8, 0.8),
    "triangle": ObjectShape(_triangle, 0.66),
    "star": ObjectShape(_star, 0.81),
    "heart": ObjectShape(_heart, 0.84),
    "ring": ObjectShape(_ring, 0.94),
    "cross": ObjectShape(_cross, 0.9),
    "diamond": ObjectShape(_diamond, 0.98),
    "moon": ObjectShape(_moon, 0.9),
}
