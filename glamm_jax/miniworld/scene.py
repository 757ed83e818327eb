"""A rendered scene: image, objects and exact masks.

scene = render_scene(seed=0, scene_id=7, size=128, world=FULL)
scene.image             uint8[128, 128, 3]
scene.objects[0]        SceneObject(shape="star", colour="red", ...), the farthest one
scene.object_mask(0)    its visible pixels
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

from glamm_jax.data.record import RecordError
from glamm_jax.miniworld.layout import SceneLayout, SceneObject, sample_layout
from glamm_jax.miniworld.rendering import Rendering, render_layout
from glamm_jax.miniworld.world import FULL, PLACES, World

MAX_ATTEMPTS = 100  # layouts tried until all objects are sufficiently visible
MIN_PIXELS = 8  # visible pixels of any stuff, object or part


class SceneError(RecordError):
    """The objects of a world do not fit, or the image is too small to show them."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A rendered scene; the result of `render_scene`.

    Attributes:
        seed: random seed.
        scene_id: number of the scene among those of the seed.
        world: options that the scene was sampled from.
        layout: objects and stuff; masks are requested by their indices in it.
        rendering: image and label maps.
    """

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
        """Width and height of the image in pixels."""
        return self.rendering.labels.shape[0]

    @property
    def stuff(self) -> tuple[str, ...]:
        """Names of the stuff of the place, from top to bottom."""
        return PLACES[self.layout.place].stuff

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        return self.layout.objects

    def stuff_mask(self, index: int) -> Bool[np.ndarray, "s s"]:
        """Return the visible pixels of some stuff."""
        return self.rendering.labels == index

    def object_mask(self, index: int) -> Bool[np.ndarray, "s s"]:
        """Return the visible pixels of an object. Masks of stuff and objects are disjoint."""
        return self.rendering.labels == len(self.stuff) + index

    def part_mask(self, index: int) -> Bool[np.ndarray, "s s"]:
        """Return the visible pixels of an object's part, a subset of the object's mask."""
        return self.object_mask(index) & self.rendering.is_part

    def covered_pixels(self, front: int, back: int) -> int:
        """Return the number of pixels of object `back` that object `front` was rendered over."""
        return int(self.rendering.covered_pixels[front, back])


def render_scene(seed: int, scene_id: int, size: int, world: World = FULL) -> Scene:
    """Sample and render a scene. The same arguments give the same scene.

    Args:
        seed: random seed.
        scene_id: number of the scene; not negative.
        size: width and height of the image in pixels.
        world: options to sample from.

    Raises:
        SceneError: in none of MAX_ATTEMPTS layouts all objects fit and are sufficiently visible.
    """
    for attempt in range(MAX_ATTEMPTS):
        rng = np.random.default_rng((seed, scene_id, attempt))
        layout = sample_layout(world, rng)
        if len(layout.objects) < world.num_objects[0]:
            continue
        scene = Scene(seed, scene_id, world, layout, render_layout(layout, size, rng))
        if _is_visible(scene):
            return scene
    raise SceneError(
        f"scene {scene_id} of seed {seed}: {world.num_objects[0]} to {world.num_objects[1]} "
        f"objects with radii {world.radii} do not fit visibly into {size} x {size} pixels; use "
        "fewer or smaller objects or a larger image"
    )


def _is_visible(scene: Scene) -> bool:
    """Whether all stuff, objects and parts that texts may name are sufficiently visible."""
    rendering, num_stuff = scene.rendering, len(scene.stuff)
    num_labels = num_stuff + len(scene.objects)
    pixels = np.bincount(rendering.labels.ravel(), minlength=num_labels)
    min_pixels = scene.world.min_visible * rendering.object_areas
    if pixels.min() < MIN_PIXELS or (pixels[num_stuff:] < min_pixels).any():
        return False
    part_pixels = np.bincount(rendering.labels[rendering.is_part], minlength=len(pixels))
    return all(
        count >= MIN_PIXELS
        for count, item in zip(part_pixels[num_stuff:], scene.objects, strict=True)
        if item.part is not None
    )
