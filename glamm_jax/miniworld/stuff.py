"""Appearance of stuff: colours, noise and patterns of sky, grass, water and the like.

`render_stuff` renders the rows of one stuff. Noise is cut at random positions from a few tiles that
are computed once for each image size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Colour = tuple[int, int, int]
Rows = Float[np.ndarray, "3 h w"]
Noise = Float[np.ndarray, "h w"]

# Name of a noise -> decay exponent of its spectrum, and horizontal over vertical scale.
NOISES: dict[str, tuple[float, float]] = {
    "fine": (0.75, 1.0),
    "soft": (1.3, 1.0),
    "cloud": (1.75, 2.2),
    "ripple": (1.1, 5.0),
}
NUM_TILES = 6  # of each noise
NUM_TONES = 97  # of bricks and planks
WHITE = np.float32(1.0)
# Factors of the RGB channels of everything but the sky.
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
    """Style of a stuff.

    Attributes:
        far: colour at the upper edge.
        near: colour at the lower edge.
        noise: key of NOISES.
        strength: standard deviation of the noise, in intensities of 0 to 1.
        pattern: draws details into the rows, in place.
    """

    far: Colour
    near: Colour
    noise: str
    strength: float
    pattern: Callable[[Rows, Canvas], None] | None = None


class Canvas(NamedTuple):
    """Position and noise of the rows that a pattern is drawn into.

    Attributes:
        down: vertical position, 0 at the upper edge of the stuff to 1 at the lower one.
        right: horizontal position, 0 to 1.
        noise: the noise of these rows.
        size: width of the image in pixels.
        daytime: name in DAYTIMES.
        rng: random generator of details.
    """

    down: Float[np.ndarray, "h 1"]
    right: Float[np.ndarray, "1 w"]
    noise: Noise
    size: int
    daytime: str
    rng: np.random.Generator


@lru_cache(maxsize=8)
def noise_tiles(size: int) -> dict[str, tuple[Noise, ...]]:
    """Return tiles of every noise, twice as large as the image, of mean 0 and variance 1."""
    rng = np.random.default_rng(0)
    down, right = np.fft.fftfreq(2 * size)[:, None], np.fft.rfftfreq(2 * size)[None, :]
    tiles = {}
    for name, (decay, stretch) in NOISES.items():
        frequency = np.hypot(down, right * stretch)
        frequency[0, 0] = 1
        power = frequency**-decay
        power[0, 0] = 0
        tiles[name] = tuple(_tile(power, size, rng) for _ in range(NUM_TILES))
    return tiles


def _tile(power: np.ndarray, size: int, rng: np.random.Generator) -> Noise:
    phase = np.exp(2j * np.pi * rng.random(power.shape))
    tile = np.fft.irfft2(power * phase, s=(2 * size, 2 * size))
    return (tile / tile.std()).astype(np.float32)


def render_stuff(
    name: str, first: int, last: int, size: int, daytime: str, rng: np.random.Generator
) -> Rows:
    """Render the rows `first` to `last` (exclusive) of an image, in intensities of 0 to 1.

    Args:
        name: key of STUFF.
        first: first row.
        last: row behind the last one.
        size: width and height of the image in pixels.
        daytime: name in DAYTIMES.
        rng: random generator of noise and details.
    """
    stuff = STUFF[name]
    height = last - first
    down = ((np.arange(height, dtype=np.float32) + 0.5) / max(height, 1))[:, None]
    right = ((np.arange(size, dtype=np.float32) + 0.5) / size)[None, :]
    tile = noise_tiles(size)[stuff.noise][int(rng.integers(NUM_TILES))]
    top, left = (int(offset) for offset in rng.integers(size, size=2))
    noise = tile[top : top + height, left : left + size]
    far, near = SKIES[daytime] if name == "sky" else (stuff.far, stuff.near)
    upper, lower = (np.array(colour, np.float32)[:, None, None] / 255 for colour in (far, near))
    rows = upper + (lower - upper) * down
    rows = rows + (stuff.strength * noise)[None]
    if stuff.pattern is not None:
        stuff.pattern(rows, Canvas(down, right, noise, size, daytime, rng))
    if name != "sky":
        rows *= np.array(LIGHT[daytime], np.float32)[:, None, None]
    return rows


def _line_coverage(position: np.ndarray, width: float, size: int) -> np.ndarray:
    """Return the share of a pixel that is on a line; lines are at integer positions.

    width: of a line, in units of `position`; size: pixels of one unit.
    """
    distance = np.abs(position - np.round(position))
    return np.clip((width - distance) * size + 0.5, 0, 1)


def _sky(rows: Rows, canvas: Canvas) -> None:
    if canvas.daytime == "night":
        stars = canvas.rng.random(rows.shape[1:], np.float32)
        bright = np.clip((stars - 0.9965) * 400, 0, 1) * (1 - 0.7 * canvas.down)
        rows += bright * (WHITE - rows)
        return
    colour, limit = ((1.0, 1.0, 1.0), 0.85) if canvas.daytime == "day" else ((1.0, 0.74, 0.6), 0.5)
    cloud = np.clip(0.55 * canvas.noise - 0.2, 0, limit) * (1 - 0.55 * canvas.down)
    rows += cloud * (np.array(colour, np.float32)[:, None, None] - rows)


def _grass(rows: Rows, canvas: Canvas) -> None:
    """Blades are more visible the nearer they are."""
    blades = np.maximum(canvas.noise, 0) * (0.015 + 0.05 * canvas.down)
    rows += blades * np.array([0.7, 1.0, 0.2], np.float32)[:, None, None]


def _water(rows: Rows, canvas: Canvas) -> None:
    """Crests are bright, more so near the horizon."""
    crest = np.clip(canvas.noise - 0.9, 0, 1.2) * (0.30 - 0.16 * canvas.down)
    rows += crest * (WHITE - rows)


def _snow(rows: Rows, canvas: Canvas) -> None:
    sparkle = np.clip(canvas.noise - 2.2, 0, 0.5) * 0.5
    rows += sparkle * (WHITE - rows)


def _road(rows: Rows, canvas: Canvas) -> None:
    """A pale kerb along the far edge and a dashed line in the middle."""
    kerb = np.clip((0.06 - canvas.down) * 60, 0, 1) * 0.35
    rows += kerb * (np.float32(0.85) - rows)
    height = canvas.down.shape[0]
    stripe = np.clip((0.028 - np.abs(canvas.down - 0.52)) * height + 0.5, 0, 1)
    dash = np.clip((0.27 - np.abs((canvas.right * 4 + 0.1) % 1 - 0.5)) * canvas.size / 4, 0, 1)
    rows += (0.75 * stripe * dash) * (np.float32(0.95) - rows)


def _tones(canvas: Canvas, indices: np.ndarray) -> np.ndarray:
    """Return a random tone for every integer."""
    tones = canvas.rng.random(NUM_TONES, np.float32) - np.float32(0.5)
    return tones[indices % NUM_TONES]


def _brick_wall(rows: Rows, canvas: Canvas) -> None:
    """Courses of bricks, every other course shifted by half a brick."""
    course = canvas.down * (canvas.down.shape[0] / canvas.size * 17)
    row = np.floor(course).astype(np.int32)
    column = canvas.right * 8 + (row % 2) * np.float32(0.5)
    rows += 0.10 * _tones(canvas, 31 * row + np.floor(column).astype(np.int32))
    beds = _line_coverage(course, 0.07, canvas.size // 17)
    joints = _line_coverage(column, 0.035, canvas.size // 8)
    rows += 0.6 * np.maximum(beds, joints) * (np.float32(0.80) - rows)


def _floor(rows: Rows, canvas: Canvas) -> None:
    """Planks that run towards a point above the far edge, and a skirting board."""
    plank = (canvas.right - np.float32(0.5)) / (canvas.down + np.float32(0.55)) * 9
    rows += 0.11 * _tones(canvas, np.floor(plank).astype(np.int32))
    rows -= 0.22 * _line_coverage(plank, 0.03, canvas.size // 9) * rows
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
