"""Sky, grass, water and the rest: colours, grain and pattern of what fills the picture.

`paint_stuff` gives the rows of one stuff. Grain comes from a few tiles of noise for each size of
picture, made once and cut at random.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Colour = tuple[int, int, int]
Rows = Float[np.ndarray, "3 h w"]
Grain = Float[np.ndarray, "h w"]

# Name of a grain -> how fast its frequencies fade, and how much longer it is than high.
GRAINS: dict[str, tuple[float, float]] = {
    "fine": (0.75, 1.0),
    "soft": (1.3, 1.0),
    "cloud": (1.75, 2.2),
    "ripple": (1.1, 5.0),
}
TILES = 6  # of each grain
NUM_TONES = 97  # of bricks and planks
WHITE = np.float32(1.0)
# What the hour does to everything under the sky.
LIGHT: dict[str, tuple[float, float, float]] = {
    "day": (1.0, 1.0, 1.0),
    "evening": (1.0, 0.84, 0.74),
    "night": (0.46, 0.49, 0.66),
}
SKIES: dict[str, tuple[Colour, Colour]] = {
    "day": ((62, 132, 226), (196, 226, 250)),
    "evening": ((92, 62, 134), (255, 176, 112)),
    "night": ((10, 14, 44), (54, 66, 120)),
}


class StuffStyle(NamedTuple):
    """Colours far and near, the grain, how strong it is, and a pattern on top."""

    far: Colour
    near: Colour
    grain: str
    strength: float
    pattern: Callable[[Rows, Canvas], None] | None = None


class Canvas(NamedTuple):
    """The rows to paint. down: 0 at the stuff's upper edge to 1 at its lower; across: 0 to 1."""

    down: Float[np.ndarray, "h 1"]
    across: Float[np.ndarray, "1 w"]
    grain: Grain
    size: int  # pixels of the picture's width
    daytime: str
    rng: np.random.Generator


@lru_cache(maxsize=8)
def grain_tiles(size: int) -> dict[str, tuple[Grain, ...]]:
    """Noise of mean 0 and variance 1, twice as large as the picture, of each grain."""
    rng = np.random.default_rng(0)
    down, across = np.fft.fftfreq(2 * size)[:, None], np.fft.rfftfreq(2 * size)[None, :]
    tiles = {}
    for name, (fading, length) in GRAINS.items():
        frequency = np.hypot(down, across * length)
        frequency[0, 0] = 1
        power = frequency**-fading
        power[0, 0] = 0
        tiles[name] = tuple(_tile(power, size, rng) for _ in range(TILES))
    return tiles


def _tile(power: np.ndarray, size: int, rng: np.random.Generator) -> Grain:
    phase = np.exp(2j * np.pi * rng.random(power.shape))
    tile = np.fft.irfft2(power * phase, s=(2 * size, 2 * size))
    return (tile / tile.std()).astype(np.float32)


def cut_grain(name: str, height: int, size: int, rng: np.random.Generator) -> Grain:
    """A piece of noise for these rows, from anywhere."""
    tile = grain_tiles(size)[name][int(rng.integers(TILES))]
    top, left = (int(place) for place in rng.integers(size, size=2))
    return tile[top : top + height, left : left + size]


def render_stuff(
    name: str, first: int, last: int, size: int, daytime: str, rng: np.random.Generator
) -> Rows:
    """Rows `first` to `last` of a picture, filled with this stuff, in [0, 1]."""
    stuff = STUFF[name]
    down = ((np.arange(last - first, dtype=np.float32) + 0.5) / max(last - first, 1))[:, None]
    across = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None, :]
    grain = cut_grain(stuff.grain, last - first, size, rng)
    far, near = SKIES[daytime] if name == "sky" else (stuff.far, stuff.near)
    rows = _colour(far) + (_colour(near) - _colour(far)) * down
    rows = rows + (stuff.strength * grain)[None]
    if stuff.pattern is not None:
        stuff.pattern(rows, Canvas(down, across, grain, size, daytime, rng))
    if name != "sky":
        rows *= np.array(LIGHT[daytime], np.float32)[:, None, None]
    return rows


def _colour(colour: Colour) -> Float[np.ndarray, "3 1 1"]:
    return np.array(colour, np.float32)[:, None, None] / 255


def _line(place: np.ndarray, width: float, size: int) -> np.ndarray:
    """How much of a pixel lies on a line around whole numbers of `place`; width in its units."""
    far = np.abs(place - np.round(place))
    return np.clip((width - far) * size + 0.5, 0, 1)


def _sky(rows: Rows, canvas: Canvas) -> None:
    if canvas.daytime == "night":
        stars = canvas.rng.random(rows.shape[1:], np.float32)
        bright = np.clip((stars - 0.9965) * 400, 0, 1) * (1 - 0.7 * canvas.down)
        rows += bright * (WHITE - rows)
        return
    colour, most = ((1.0, 1.0, 1.0), 0.85) if canvas.daytime == "day" else ((1.0, 0.74, 0.6), 0.5)
    cloud = np.clip(0.55 * canvas.grain - 0.2, 0, most) * (1 - 0.55 * canvas.down)
    rows += cloud * (np.array(colour, np.float32)[:, None, None] - rows)


def _grass(rows: Rows, canvas: Canvas) -> None:
    """Blades show the nearer they are."""
    blades = np.maximum(canvas.grain, 0) * (0.015 + 0.05 * canvas.down)
    rows += blades * np.array([0.7, 1.0, 0.2], np.float32)[:, None, None]


def _water(rows: Rows, canvas: Canvas) -> None:
    """Crests catch the light, more so near the horizon."""
    crest = np.clip(canvas.grain - 0.9, 0, 1.2) * (0.30 - 0.16 * canvas.down)
    rows += crest * (WHITE - rows)


def _snow(rows: Rows, canvas: Canvas) -> None:
    sparkle = np.clip(canvas.grain - 2.2, 0, 0.5) * 0.5
    rows += sparkle * (WHITE - rows)


def _road(rows: Rows, canvas: Canvas) -> None:
    """A pale kerb along the far edge and a dashed line in the middle."""
    kerb = np.clip((0.06 - canvas.down) * 60, 0, 1) * 0.35
    rows += kerb * (np.float32(0.85) - rows)
    height = canvas.down.shape[0]
    stripe = np.clip((0.028 - np.abs(canvas.down - 0.52)) * height + 0.5, 0, 1)
    dash = np.clip((0.27 - np.abs((canvas.across * 4 + 0.1) % 1 - 0.5)) * canvas.size / 4, 0, 1)
    rows += (0.75 * stripe * dash) * (np.float32(0.95) - rows)


def _tones(canvas: Canvas, numbers: np.ndarray) -> np.ndarray:
    """A tone of its own for every whole number."""
    tones = canvas.rng.random(NUM_TONES, np.float32) - np.float32(0.5)
    return tones[numbers % NUM_TONES]


def _brick_wall(rows: Rows, canvas: Canvas) -> None:
    """Courses of bricks, every other one shifted by half a brick."""
    course = canvas.down * (canvas.down.shape[0] / canvas.size * 17)
    number = np.floor(course).astype(np.int32)
    column = canvas.across * 8 + (number % 2) * np.float32(0.5)
    rows += 0.10 * _tones(canvas, 31 * number + np.floor(column).astype(np.int32))
    beds, joints = _line(course, 0.07, canvas.size // 17), _line(column, 0.035, canvas.size // 8)
    rows += 0.6 * np.maximum(beds, joints) * (np.float32(0.80) - rows)


def _floor(rows: Rows, canvas: Canvas) -> None:
    """Planks that run towards a point above the far edge, and a skirting board."""
    plank = (canvas.across - np.float32(0.5)) / (canvas.down + np.float32(0.55)) * 9
    rows += 0.11 * _tones(canvas, np.floor(plank).astype(np.int32))
    rows -= 0.22 * _line(plank, 0.03, canvas.size // 9) * rows
    board = np.clip((0.07 - canvas.down) * 80, 0, 1)
    rows += 0.85 * board * (np.float32(0.93) - rows)


STUFF: dict[str, StuffStyle] = {
    "sky": StuffStyle((0, 0, 0), (0, 0, 0), "cloud", 0.0, _sky),
    "grass": StuffStyle((136, 190, 84), (62, 132, 46), "fine", 0.035, _grass),
    "water": StuffStyle((76, 166, 200), (20, 84, 138), "ripple", 0.022, _water),
    "sand": StuffStyle((240, 220, 166), (216, 182, 118), "fine", 0.028),
    "snow": StuffStyle((246, 250, 255), (212, 226, 242), "soft", 0.016, _snow),
    "road": StuffStyle((128, 128, 134), (92, 92, 98), "fine", 0.03, _road),
    "wall": StuffStyle((188, 118, 92), (168, 100, 78), "soft", 0.02, _brick_wall),
    "floor": StuffStyle((196, 146, 92), (156, 106, 60), "ripple", 0.02, _floor),
}
