"""Rendering of a layout: the image and its label maps.

Stuff is rendered first, from top to bottom, then the objects from far to near. A pixel has the
label of what covers its centre; edges in the image are antialiased. All arithmetic is float32,
channels first; each object is rendered within its own window.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glamm_jax.miniworld.layout import NO_INDEX, SceneLayout, SceneObject, StuffBoundary
from glamm_jax.miniworld.shapes import REACH, SHAPES
from glamm_jax.miniworld.stuff import LIGHT, render_stuff
from glamm_jax.miniworld.world import COLOURS, HANGING, PLACES

Plane = Float[np.ndarray, "h w"]
LIGHT_X, LIGHT_Y = -0.58, -0.81  # direction towards the light: up and to the left
BEVEL = 0.26  # width of an object's rounded rim, in radii
PATTERN_MARGIN = 0.1  # width of the rim without texture, in radii
BAND, CAP = 0.2, -0.28  # half the height of a band; lower limit of a cap; in radii


class Rendering(NamedTuple):
    """Pixels of a scene.

    Attributes:
        image: the RGB image.
        labels: index of the visible stuff, or number of stuff + index of the visible object.
        is_part: whether the visible object shows its part at a pixel.
        object_areas: pixels of each of k objects, covered ones included.
        covered_pixels: [i, j]: number of pixels of object j that object i was rendered over.
    """

    image: UInt8[np.ndarray, "s s 3"]
    labels: UInt8[np.ndarray, "s s"]
    is_part: Bool[np.ndarray, "s s"]
    object_areas: Int[np.ndarray, "k"]
    covered_pixels: Int[np.ndarray, "k k"]


class _LabelMaps(NamedTuple):
    """The label maps, updated in place as objects are rendered."""

    labels: UInt8[np.ndarray, "s s"]
    is_part: Bool[np.ndarray, "s s"]


class _Window(NamedTuple):
    """The part of the image that an object can touch; x and y are relative to its centre."""

    rows: slice
    columns: slice
    x: Plane
    y: Plane


def render_layout(layout: SceneLayout, size: int, rng: np.random.Generator) -> Rendering:
    """Render a layout.

    Args:
        layout: what to render.
        size: width and height of the image in pixels.
        rng: random generator of the texture noise of stuff.
    """
    stuff, num_objects = PLACES[layout.place].stuff, len(layout.objects)
    image = np.zeros((3, size, size), np.float32)
    maps = _LabelMaps(np.zeros((size, size), np.uint8), np.zeros((size, size), bool))
    _render_place(layout, image, maps.labels, rng)
    counts = []
    for i, item in enumerate(layout.objects):
        _render_shadow(item, stuff, image)
        previous = _render_object(item, layout.daytime, image, maps, len(stuff) + i)
        counts.append(np.bincount(previous, minlength=len(stuff) + num_objects))
    covered = np.array(counts, np.int64).reshape(num_objects, -1)
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Rendering(pixels, *maps, covered.sum(1), covered[:, len(stuff) :])


def _render_place(
    layout: SceneLayout, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> None:
    """Render all stuff; each extends a little below the upper boundary of the next one."""
    size = labels.shape[0]
    centres = (np.arange(size, dtype=np.float32) + 0.5) / size
    top, bottom = StuffBoundary(0.0, 0.0, 0.0, 0.0), StuffBoundary(1.0, 0.0, 0.0, 0.0)
    boundaries = (top, *layout.boundaries, bottom)
    for i, name in enumerate(PLACES[layout.place].stuff):
        upper, lower = boundaries[i], boundaries[i + 1]
        first = max(math.floor((upper.height - upper.amplitude) * size) - 1, 0)
        last = min(math.ceil((lower.height + lower.amplitude) * size) + 1, size)
        rows = render_stuff(name, first, last, size, layout.daytime, rng)
        if i == 0:
            image[:, first:last] = rows
            continue
        line = upper.height + upper.amplitude * np.sin(upper.frequency * centres + upper.phase)
        below = (centres[first:last, None] - line[None, :]) * size
        image[:, first:last] += (rows - image[:, first:last]) * np.clip(below + 0.5, 0, 1)
        labels[first:last][below > 0] = i


def _window(item: SceneObject, size: int, reach: float) -> _Window:
    """Return the window of all pixels within `reach` radii of an object's centre."""
    distance = reach * item.radius * size + 2
    x, y = item.x * size, item.y * size
    rows = slice(max(int(y - distance), 0), min(int(y + distance) + 1, size))
    columns = slice(max(int(x - distance), 0), min(int(x + distance) + 1, size))
    right = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - x)
    down = np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - y)
    return _Window(rows, columns, right[None, :], down[:, None])


def _object_frame(item: SceneObject, window: _Window) -> tuple[Plane, Plane]:
    """Return the window's coordinates in the rotated frame of the object."""
    cos, sin = np.float32(math.cos(item.angle)), np.float32(math.sin(item.angle))
    return window.x * cos + window.y * sin, window.y * cos - window.x * sin


def _render_shadow(item: SceneObject, stuff: tuple[str, ...], image: np.ndarray) -> None:
    """Darken the ground below an object or the wall behind it; no shadow in the sky."""
    ground = "" if item.ground_index == NO_INDEX else stuff[item.ground_index]
    if item.base_index != NO_INDEX or ground == "sky":
        return
    size = image.shape[1]
    radius = item.radius * size
    window = _window(item, size, 1.6)
    if not ground or ground in HANGING:
        shifted = window._replace(x=window.x - 0.1 * radius, y=window.y - 0.16 * radius)
        x, y = _object_frame(item, shifted)
        distance = SHAPES[item.shape].distance(x, y, radius)
        shadow = 0.42 * np.clip(0.5 - distance / (0.4 * radius), 0, 1)
    else:
        bottom = SHAPES[item.shape].bottom * radius
        ellipse = ((window.x - 0.22 * radius) / (1.05 * radius)) ** 2
        ellipse = ellipse + ((window.y - 0.98 * bottom) / (0.3 * radius)) ** 2
        shadow = 0.62 * np.clip(1.05 - ellipse, 0, 1)
    image[:, window.rows, window.columns] *= (1 - shadow.astype(np.float32))[None]


def _render_object(
    item: SceneObject, daytime: str, image: np.ndarray, maps: _LabelMaps, label: int
) -> UInt8[np.ndarray, "n"]:
    """Render an object over what is there; return the previous labels of its n pixels."""
    size = image.shape[1]
    radius = item.radius * size
    window = _window(item, size, REACH)
    x, y = _object_frame(item, window)
    distance = SHAPES[item.shape].distance(x, y, radius)
    inside = distance < 0
    if item.part is None:
        on_part = np.zeros(y.shape, bool)
    else:
        on_part = y < CAP * radius if item.part.name == "cap" else np.abs(y) < BAND * radius
    paint = np.array(COLOURS[item.colour], np.float32)[:, None, None] / 255
    if item.texture != "plain":
        pattern = PATTERNS[item.texture](x / radius, y / radius, radius)
        # Pale dots at the very edge would blend into the background.
        pattern *= np.clip(-distance / (PATTERN_MARGIN * radius), 0, 1)
        # The second tone is paler, or darker if the colour itself is pale: its name stays right.
        tone = paint * 0.72 if paint.min() > 0.9 else paint + (1 - paint) * 0.62
        paint = paint + (tone - paint) * pattern
    if item.part is not None:
        colour = np.array(COLOURS[item.part.colour], np.float32)[:, None, None] / 255
        paint = np.where(on_part, colour, paint)
    shade, shine = _lighting(distance, window, radius)
    lamp = (3 + np.array(LIGHT[daytime], np.float32)[:, None, None]) / 4
    paint = paint * (shade * lamp)
    paint += (1 - paint) * shine
    target = image[:, window.rows, window.columns]
    target += (np.clip(paint, 0, 1) - target) * np.clip(0.5 - distance, 0, 1)
    labels = maps.labels[window.rows, window.columns]
    previous = labels[inside]
    labels[inside] = label
    maps.is_part[window.rows, window.columns][inside] = on_part[inside]
    return previous


def _stripes(x: Plane, y: Plane, radius: float) -> Plane:
    return np.clip(0.5 + 0.16 * radius * np.sin(8.5 * (x + y)), 0, 1)


def _dots(x: Plane, y: Plane, radius: float) -> Plane:
    """Dots in rows, every other row shifted by half a step."""
    row = np.floor(y * 2.4 + 0.5)
    column = (x * 2.4 + 0.5 * (row % 2) + 0.5) % 1 - 0.5
    distance = np.sqrt(column**2 + (y * 2.4 - row) ** 2)
    return np.clip(0.5 + (0.27 - distance) * radius / 2.4, 0, 1)


def _checks(x: Plane, y: Plane, radius: float) -> Plane:
    return np.clip(0.5 + 0.4 * radius * np.sin(6.0 * x) * np.sin(6.0 * y), 0, 1)


PATTERNS: dict[str, Callable[[Plane, Plane, float], Plane]] = {
    "striped": _stripes,
    "dotted": _dots,
    "checked": _checks,
}


def _lighting(distance: Plane, window: _Window, radius: float) -> tuple[Plane, Plane]:
    """Return brightness and specular reflection of a slab with a rounded rim."""
    rim = np.clip(1 + distance / (BEVEL * radius), 0, 1)
    down, right = np.gradient(distance)
    tilt = (right * LIGHT_X + down * LIGHT_Y) * rim * rim
    shade = 1.0 - 0.09 * (window.x + window.y) / radius + 0.42 * tilt
    squared = (window.x + 0.34 * radius) ** 2 + (window.y + 0.42 * radius) ** 2
    shine = 0.30 * np.exp(-squared / (0.32 * radius) ** 2) + 0.18 * np.maximum(tilt - 0.2, 0)
    return shade, shine
