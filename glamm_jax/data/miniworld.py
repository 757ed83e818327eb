"""A world of shapes, drawn on the fly: a picture, exact masks, and a conversation about it.

Everything follows from (seed, id), so any example can be made anywhere, at any time, again. Shapes
are distance fields: negative inside, in pixels, which gives the mask exactly and soft edges for
free. No two things of a picture share a name, and none covers another.

    example = draw_example(seed=0, example_id=7, size=128)
    example.turns    ("Segment the red circle in this image.", "Sure, it is [SEG].")
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8

from glamm_jax.text.questions import (
    GCG_QUESTIONS,
    SEGMENTATION_ANSWERS,
    SEGMENTATION_QUESTIONS,
    ask,
)
from glamm_jax.text.special_tokens import PHRASE_END, PHRASE_START, SEG
from glamm_jax.types import Example

SHAPES = ("circle", "square", "triangle")
COLOURS = {
    "red": (214, 48, 49),
    "orange": (240, 140, 30),
    "yellow": (250, 215, 50),
    "green": (46, 160, 70),
    "blue": (40, 90, 210),
    "purple": (140, 70, 190),
}
# Top and bottom of the background.
SKIES = (
    ((190, 222, 250), (236, 240, 244)),
    ((250, 226, 200), (240, 240, 232)),
    ((70, 78, 96), (130, 136, 150)),
)
MAX_THINGS = 3
RADII = (0.14, 0.22)  # of the circle around a thing, in widths of the picture
TRIES = 100  # places that are tried until all things have one


class Thing(NamedTuple):
    """One shape. Centre and radius are in widths of the picture, from its top left corner."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    angle: float  # radians

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


def draw_example(seed: int, example_id: int, size: int) -> Example:
    """A picture of `size` x `size` pixels; GCG and referring conversations alternate with the id.

    Masks stand in the order of the answer's [SEG].
    """
    rng = np.random.default_rng((seed, example_id))
    things = place_things(rng)
    image, masks = paint_things(things, SKIES[rng.integers(len(SKIES))], size)
    draw = int(rng.integers(1 << 16))
    task = ("gcg", "referring")[example_id % 2]
    if task == "gcg":
        turns = (ask(GCG_QUESTIONS, draw), describe(things))
    else:
        wanted = draw % len(things)
        question = ask(SEGMENTATION_QUESTIONS, draw // len(things), things[wanted].name)
        answer = SEGMENTATION_ANSWERS[int(rng.integers(len(SEGMENTATION_ANSWERS)))]
        turns, masks = (question, answer), masks[wanted : wanted + 1]
    return Example(image, turns, None, masks.astype(np.uint8), task, "miniworld", str(example_id))


def place_things(rng: np.random.Generator) -> list[Thing]:
    """One to three things of different names that do not touch, from left to right."""
    wanted, things = int(rng.integers(1, MAX_THINGS + 1)), []
    for _ in range(TRIES):
        radius = float(rng.uniform(*RADII))
        x, y = (float(place) for place in rng.uniform(radius, 1 - radius, 2))
        shape, colour = rng.choice(SHAPES), rng.choice(list(COLOURS))
        thing = Thing(str(shape), str(colour), x, y, radius, float(rng.uniform(-0.3, 0.3)))
        apart = all(np.hypot(x - other.x, y - other.y) > radius + other.radius for other in things)
        if apart and thing.name not in {other.name for other in things}:
            things.append(thing)
        if len(things) == wanted:
            break
    return sorted(things, key=lambda thing: thing.x)


def describe(things: list[Thing]) -> str:
    """The grounded caption: every thing a phrase with its mask behind it."""
    articles = ["an" if thing.name[0] in "aeiou" else "a" for thing in things]
    phrases = [
        f"{PHRASE_START} {article} {thing.name} {PHRASE_END} {SEG}"
        for article, thing in zip(articles, things, strict=True)
    ]
    *first, last = phrases
    listed = f"{', '.join(first)} and {last}" if first else last
    return f"The picture shows {listed}."


def paint_things(
    things: list[Thing], sky: tuple[tuple[int, ...], tuple[int, ...]], size: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Bool[np.ndarray, "k s s"]]:
    """The picture and each thing's mask: the pixels whose centre lies inside."""
    places = np.arange(size) + 0.5
    top, bottom = np.array(sky, np.float64)
    down = np.broadcast_to((places / size)[:, None, None], (size, size, 1))
    image = top + (bottom - top) * down
    masks = np.zeros((len(things), size, size), bool)
    for mask, thing in zip(masks, things, strict=True):
        x = (places - thing.x * size)[None, :].repeat(size, 0)
        y = (places - thing.y * size)[:, None].repeat(size, 1)
        radius, cos, sin = thing.radius * size, np.cos(thing.angle), np.sin(thing.angle)
        distance = signed_distance(thing.shape, x * cos + y * sin, y * cos - x * sin, radius)
        # Lit from the top left, and darker towards the edge.
        light = 1.04 - 0.12 * (x + y) / radius - 0.2 * np.clip(1 + 8 * distance / radius, 0, 1) ** 2
        cover = np.clip(0.5 - distance, 0, 1)[..., None]
        image += (np.array(COLOURS[thing.colour]) * light[..., None] - image) * cover
        mask[:] = distance < 0
    return np.clip(image + 0.5, 0, 255).astype(np.uint8), masks


def signed_distance(
    shape: str, x: Float[np.ndarray, "s s"], y: Float[np.ndarray, "s s"], radius: float
) -> Float[np.ndarray, "s s"]:
    """Distance to the outline of a shape that fits into a circle around 0, 0; y points down."""
    if shape == "circle":
        return np.hypot(x, y) - radius
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - radius * 0.5**0.5
    return np.maximum(y, 0.75**0.5 * np.abs(x) - 0.5 * y) - radius / 2
