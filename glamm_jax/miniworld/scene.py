"""A scene of the mini-world: a picture, and everything that is true of it.

one = scene(seed=0, scene_id=7, size=128, world=FULL)
one.image            uint8[128, 128, 3]
one.things[0]        Thing(shape="star", colour="red", ...), far things first
one.thing_mask(0)    what is visible of it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from glamm_jax.data.record import RecordError
from glamm_jax.miniworld.layout import SceneLayout, SceneObject, sample_layout
from glamm_jax.miniworld.rendering import Rendering, render_layout
from glamm_jax.miniworld.world import FULL, PLACES, World

MAX_ATTEMPTS = 100  # at a scene whose things can all be seen
MIN_PIXELS = 8  # of a thing, and of a part


class SceneError(RecordError):
    """A world that has no room for its things, or a picture that is too small for them."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What `scene` draws. Stuff and things are numbered as in `plan`."""

    seed: int
    scene_id: int
    world: World
    layout: SceneLayout
    rendering: Rendering

    @property
    def image(self) -> UInt8[np.ndarray, "s s 3"]:
        return self.rendering.image

    @property
    def size(self) -> int:
        return self.rendering.labels.shape[0]

    @property
    def stuff(self) -> tuple[str, ...]:
        """Names of what fills the place, from top to bottom."""
        return PLACES[self.layout.place].stuff

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        return self.layout.objects

    def stuff_mask(self, number: int) -> Bool[np.ndarray, "s s"]:
        """Where this stuff is seen."""
        return self.rendering.labels == number

    def object_mask(self, number: int) -> Bool[np.ndarray, "s s"]:
        """Where this thing is seen. No two masks of stuff and things share a pixel."""
        return self.rendering.labels == len(self.stuff) + number

    def part_mask(self, number: int) -> Bool[np.ndarray, "s s"]:
        """Where the part of this thing is seen; it lies within the thing's mask."""
        return self.object_mask(number) & self.rendering.is_part

    def covered_pixels(self, front: int, back: int) -> int:
        """How many pixels of one thing another was painted over."""
        return int(self.rendering.covered_pixels[front, back])


def render_scene(seed: int, scene_id: int, size: int, world: World = FULL) -> Scene:
    """The scene of this seed and id, the same whenever it is asked for.

    Raises: SceneError when things do not fit or cannot be seen, at every attempt.
    """
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng((seed, scene_id, attempt))
        plan = sample_layout(world, rng)
        if len(plan.objects) < world.num_objects[0]:
            continue
        drawn = Scene(seed, scene_id, world, plan, render_layout(plan, size, rng))
        if _all_visible(drawn):
            return drawn
    raise SceneError(
        f"scene {scene_id} of seed {seed}: {world.num_objects[0]} to {world.num_objects[1]} things "
        f"with radii {world.radii} find no room to be seen in {size} x {size} pixels; take fewer, "
        "smaller ones or a larger picture"
    )


def _all_visible(drawn: Scene) -> bool:
    """Whether enough is seen of everything that texts may speak of."""
    painting, first = drawn.rendering, len(drawn.stuff)
    seen = np.bincount(painting.labels.ravel(), minlength=first + len(drawn.objects))
    if seen.min() < MIN_PIXELS or (seen[first:] < drawn.world.min_visible * painting.object_areas).any():
        return False
    parts = np.bincount(painting.labels[painting.is_part], minlength=len(seen))[first:]
    return all(
        part >= MIN_PIXELS
        for part, thing in zip(parts, drawn.objects, strict=True)
        if thing.part is not None
    )
