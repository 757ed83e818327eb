"""Outlines of things as signed distances in pixels: negative inside, so a mask is `distance < 0`.

Every shape fits, about (REACH), into a circle around 0, 0 with the thing's radius; y points down.
Near the outline the distance is true, which gives soft edges and bevels for free; far from it, at
corners, it may be too small.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Plane = Float[np.ndarray, "h w"]
SLANT = 0.75**0.5  # sine of 60 degrees
TIP = math.pi / 5  # half the angle between two tips of a star
INNER = 0.46  # where a star's notches lie, in radii of its tips
HEART_TOP = 0.5**0.5 / 2
REACH = 1.09  # how far the corners of some shapes stick out, in radii


class ObjectShape(NamedTuple):
    """A distance field, where its lowest point lies below its centre in radii, and its top."""

    distance: Callable[[Plane, Plane, float], Plane]
    bottom: float
    flat_top: float | None = None  # how far above the centre something can stand on it


def _circle(x: Plane, y: Plane, r: float) -> Plane:
    return np.sqrt(x * x + y * y) - 0.92 * r


def _square(x: Plane, y: Plane, r: float) -> Plane:
    corner = 0.12 * r
    across, down = np.abs(x) - (0.8 * r - corner), np.abs(y) - (0.8 * r - corner)
    outside = np.sqrt(np.maximum(across, 0) ** 2 + np.maximum(down, 0) ** 2)
    return outside + np.minimum(np.maximum(across, down), 0) - corner


def _triangle(x: Plane, y: Plane, r: float) -> Plane:
    low = y - 0.2 * r  # its middle is lower than that of the circle around it
    return np.maximum(low, SLANT * np.abs(x) - 0.5 * low) - 0.46 * r


def _star(x: Plane, y: Plane, r: float) -> Plane:
    angle = np.abs((np.arctan2(x, -y) + TIP) % (2 * TIP) - TIP)
    far = np.sqrt(x * x + y * y)
    along, aside = far * np.cos(angle) - r, far * np.sin(angle)
    # The edge from a tip, now at 0, 0, to the notch beside it.
    edge_along, edge_aside = INNER * r * math.cos(TIP) - r, INNER * r * math.sin(TIP)
    length = math.hypot(edge_along, edge_aside)
    return (along * (edge_aside / length) - aside * (edge_along / length)).astype(x.dtype)


def _heart(x: Plane, y: Plane, r: float) -> Plane:
    scale = 1 / (1.45 * r)
    across, up = np.abs(x) * scale, 0.58 - y * scale
    lobe = np.sqrt((across - 0.25) ** 2 + (up - 0.75) ** 2) - HEART_TOP
    foot = 0.5 * np.maximum(across + up, 0)
    below = np.minimum(across**2 + (up - 1) ** 2, (across - foot) ** 2 + (up - foot) ** 2)
    return np.where(across + up > 1, lobe, np.sqrt(below) * np.sign(across - up)) / scale


def _ring(x: Plane, y: Plane, r: float) -> Plane:
    return np.abs(np.sqrt(x * x + y * y) - 0.66 * r) - 0.28 * r


def _cross(x: Plane, y: Plane, r: float) -> Plane:
    across, down = np.abs(x), np.abs(y)
    upright = np.maximum(across - 0.32 * r, down - 0.9 * r)
    return np.minimum(upright, np.maximum(across - 0.9 * r, down - 0.32 * r))


def _diamond(x: Plane, y: Plane, r: float) -> Plane:
    return (1.3 * np.abs(x) + np.abs(y) - 0.98 * r) * (1 / math.hypot(1.3, 1))


def _moon(x: Plane, y: Plane, r: float) -> Plane:
    middle = x + 0.18 * r
    bite = 0.76 * r - np.sqrt((middle - 0.52 * r) ** 2 + (y + 0.1 * r) ** 2)
    return np.maximum(np.sqrt(middle**2 + y * y) - 0.9 * r, bite)


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
