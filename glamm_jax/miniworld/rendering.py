"""From a plan to pixels: the picture and, pixel by pixel, what is seen there.

Stuff first, from top to bottom, then things from far to near. A pixel belongs to what its centre
lies in; the picture's edges are soft. All in float32, channels first, each thing in its own box.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from glamm_jax.miniworld.layout import NO_INDEX, StuffBoundary, SceneLayout, SceneObject
from glamm_jax.miniworld.shapes import REACH, SHAPES
from glamm_jax.miniworld.stuff import LIGHT, render_stuff
from glamm_jax.miniworld.world import COLOURS, HANGING, PLACES

Plane = Float[np.ndarray, "h w"]
LIGHT_X, LIGHT_Y = -0.58, -0.81  # where the light comes from: above, from the left
BEVEL = 0.26  # width of a thing's rounded rim, in radii
FRAME = 0.1  # width of the rim that patterns leave free, in radii
BAND, CAP = 0.2, -0.28  # half the height of a band; what is above this is the cap; in radii


class Rendering(NamedTuple):
    """labels: the stuff's number in its place, then, from their number on, things by depth.
    is_part: where the thing that is seen shows its part.
    areas: pixels of each whole thing. covered: [i, j] pixels of j that i was painted over.
    """

    image: UInt8[np.ndarray, "s s 3"]
    labels: UInt8[np.ndarray, "s s"]
    is_part: Bool[np.ndarray, "s s"]
    object_areas: Int[np.ndarray, "k"]
    covered_pixels: Int[np.ndarray, "k k"]


class _Truth(NamedTuple):
    """What is written while things are painted over each other."""

    labels: UInt8[np.ndarray, "s s"]
    is_part: Bool[np.ndarray, "s s"]


class _Box(NamedTuple):
    """The part of the picture that a thing can touch, with coordinates around its centre."""

    rows: slice
    columns: slice
    x: Plane
    y: Plane


def render_layout(plan: SceneLayout, size: int, rng: np.random.Generator) -> Rendering:
    """Draw a plan at `size` x `size` pixels; `rng` chooses the grain."""
    stuff = PLACES[plan.place].stuff
    image = np.zeros((3, size, size), np.float32)
    truth = _Truth(np.zeros((size, size), np.uint8), np.zeros((size, size), bool))
    _paint_place(plan, image, truth.labels, rng)
    hidden = []
    for i, thing in enumerate(plan.objects):
        _cast_shadow(thing, stuff, image)
        before = _paint_thing(thing, plan.daytime, image, truth, len(stuff) + i)
        hidden.append(np.bincount(before, minlength=len(stuff) + len(plan.objects)))
    covered = np.array(hidden, np.int64).reshape(len(plan.objects), -1)
    pixels = (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
    pixels = np.ascontiguousarray(pixels.transpose(1, 2, 0))
    return Rendering(pixels, *truth, covered.sum(1), covered[:, len(stuff) :])


def _paint_place(
    plan: SceneLayout, image: np.ndarray, labels: np.ndarray, rng: np.random.Generator
) -> None:
    """All stuff, each reaching a little below where the next one begins."""
    size = labels.shape[0]
    places = (np.arange(size, dtype=np.float32) + 0.5) / size
    stuff = PLACES[plan.place].stuff
    edges = (StuffBoundary(0.0, 0.0, 0.0, 0.0), *plan.boundaries, StuffBoundary(1.0, 0.0, 0.0, 0.0))
    for i, name in enumerate(stuff):
        first = max(math.floor((edges[i].height - edges[i].amplitude) * size) - 1, 0)
        last = min(math.ceil((edges[i + 1].height + edges[i + 1].amplitude) * size) + 1, size)
        rows = render_stuff(name, first, last, size, plan.daytime, rng)
        if i == 0:
            image[:, first:last] = rows
            continue
        line = edges[i].height + edges[i].amplitude * np.sin(edges[i].frequency * places + edges[i].phase)
        below = (places[first:last, None] - line[None, :]) * size
        image[:, first:last] += (rows - image[:, first:last]) * np.clip(below + 0.5, 0, 1)
        labels[first:last][below > 0] = i


def _box(thing: SceneObject, size: int, reach: float) -> _Box:
    """All pixels within `reach` radii of a thing's centre."""
    far = reach * thing.radius * size + 2
    x, y = thing.x * size, thing.y * size
    rows = slice(max(int(y - far), 0), min(int(y + far) + 1, size))
    columns = slice(max(int(x - far), 0), min(int(x + far) + 1, size))
    across = np.arange(columns.start, columns.stop, dtype=np.float32) + np.float32(0.5 - x)
    down = np.arange(rows.start, rows.stop, dtype=np.float32) + np.float32(0.5 - y)
    return _Box(rows, columns, across[None, :], down[:, None])


def _own_frame(thing: SceneObject, box: _Box) -> tuple[Plane, Plane]:
    """The box's coordinates, turned with the thing."""
    cos, sin = np.float32(math.cos(thing.angle)), np.float32(math.sin(thing.angle))
    return box.x * cos + box.y * sin, box.y * cos - box.x * sin


def _cast_shadow(thing: SceneObject, stuff: tuple[str, ...], image: np.ndarray) -> None:
    """On the ground where it stands, or on the wall behind it; nothing in the sky."""
    if thing.base_index != NO_INDEX or (thing.ground_index != NO_INDEX and stuff[thing.ground_index] == "sky"):
        return
    size = image.shape[1]
    radius = thing.radius * size
    box = _box(thing, size, 1.6)
    if thing.ground_index == NO_INDEX or stuff[thing.ground_index] in HANGING:
        x, y = _own_frame(thing, box._replace(x=box.x - 0.1 * radius, y=box.y - 0.16 * radius))
        distance = SHAPES[thing.shape].distance(x, y, radius)
        shadow = 0.42 * np.clip(0.5 - distance / (0.4 * radius), 0, 1)
    else:
        foot = SHAPES[thing.shape].bottom * radius
        far = ((box.x - 0.22 * radius) / (1.05 * radius)) ** 2
        far = far + ((box.y - 0.98 * foot) / (0.3 * radius)) ** 2
        shadow = 0.62 * np.clip(1.05 - far, 0, 1)
    image[:, box.rows, box.columns] *= (1 - shadow.astype(np.float32))[None]


def _paint_thing(
    thing: SceneObject, daytime: str, image: np.ndarray, truth: _Truth, label: int
) -> UInt8[np.ndarray, "n"]:
    """Draw a thing over what is there; what its pixels showed before."""
    size = image.shape[1]
    radius = thing.radius * size
    box = _box(thing, size, REACH)
    x, y = _own_frame(thing, box)
    distance = SHAPES[thing.shape].distance(x, y, radius)
    inside = distance < 0
    on_part = _on_part(thing, y, radius)
    paint = np.array(COLOURS[thing.colour], np.float32)[:, None, None] / 255
    if thing.texture != "plain":
        pattern = PATTERNS[thing.texture](x / radius, y / radius, radius)
        # Pale dots at the very edge would melt into what is behind them.
        pattern *= np.clip(-distance / (FRAME * radius), 0, 1)
        paint = paint + (_second_tone(paint) - paint) * pattern
    if thing.part is not None:
        colour = np.array(COLOURS[thing.part.colour], np.float32)[:, None, None] / 255
        paint = np.where(on_part, colour, paint)
    shade, shine = _lighting(distance, box, radius)
    lamp = (3 + np.array(LIGHT[daytime], np.float32)[:, None, None]) / 4
    paint = paint * (shade * lamp)
    paint += (1 - paint) * shine
    target = image[:, box.rows, box.columns]
    target += (np.clip(paint, 0, 1) - target) * np.clip(0.5 - distance, 0, 1)
    labels = truth.labels[box.rows, box.columns]
    before = labels[inside]
    labels[inside] = label
    truth.is_part[box.rows, box.columns][inside] = on_part[inside]
    return before


def _stripes(x: Plane, y: Plane, radius: float) -> Plane:
    return np.clip(0.5 + 0.16 * radius * np.sin(8.5 * (x + y)), 0, 1)


def _dots(x: Plane, y: Plane, radius: float) -> Plane:
    """Dots in rows, every other one shifted by half a step."""
    row = np.floor(y * 2.4 + 0.5)
    across = (x * 2.4 + 0.5 * (row % 2) + 0.5) % 1 - 0.5
    far = np.sqrt(across**2 + (y * 2.4 - row) ** 2)
    return np.clip(0.5 + (0.27 - far) * radius / 2.4, 0, 1)


def _checks(x: Plane, y: Plane, radius: float) -> Plane:
    return np.clip(0.5 + 0.4 * radius * np.sin(6.0 * x) * np.sin(6.0 * y), 0, 1)


PATTERNS: dict[str, Callable[[Plane, Plane, float], Plane]] = {
    "striped": _stripes,
    "dotted": _dots,
    "checked": _checks,
}


def _on_part(thing: SceneObject, y: Plane, radius: float) -> Bool[np.ndarray, "h w"]:
    if thing.part is None:
        return np.zeros(y.shape, bool)
    if thing.part.name == "cap":
        return y < CAP * radius
    return np.abs(y) < BAND * radius


def _second_tone(paint: np.ndarray) -> np.ndarray:
    """Paler than the colour, or greyer where it is pale itself: the name stays right."""
    return paint * 0.72 if paint.min() > 0.9 else paint + (1 - paint) * 0.62


def _lighting(distance: Plane, box: _Box, radius: float) -> tuple[Plane, Plane]:
    """How bright the paint is, and how much light it mirrors, on a slab with a round rim."""
    rim = np.clip(1 + distance / (BEVEL * radius), 0, 1)
    down, across = np.gradient(distance)
    tilt = (across * LIGHT_X + down * LIGHT_Y) * rim * rim
    shade = 1.0 - 0.09 * (box.x + box.y) / radius + 0.42 * tilt
    far = (box.x + 0.34 * radius) ** 2 + (box.y + 0.42 * radius) ** 2
    shine = 0.30 * np.exp(-far / (0.32 * radius) ** 2) + 0.18 * np.maximum(tilt - 0.2, 0)
    return shade, shine
