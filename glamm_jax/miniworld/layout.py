"""Layout of a scene: place, time of day, and the position and appearance of every object.

`sample_layout` places the objects one after the other, each at a permitted position that keeps its
distance from the earlier ones. Standing objects are nearer the lower their bottom is; hanging ones
are far away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import numpy as np

from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.world import HANGING, PARTS, PLACES, ObjectKind, World

Choice = TypeVar("Choice")

MAX_PLACEMENTS = 40  # positions tried for one object
IMAGE_MARGIN = 0.015  # between an object and the image border, in image widths
GROUND_MARGIN = 0.03  # between an object's bottom and the boundaries of its ground
STRAIGHT = ("wall", "floor", "water", "road")  # stuff with a straight upper boundary
SMALL, LARGE = (0.0, 0.35), (0.65, 1.0)  # shares of the range of radii
MAX_ALIKE = 3  # objects of one kind that repetition may produce
NO_INDEX = -1


class ObjectPart(NamedTuple):
    """A part of an object, of another colour: "band" across its middle, or "cap" on top."""

    name: str
    colour: str


class StuffBoundary(NamedTuple):
    """Upper boundary of some stuff: y = height + amplitude * sin(frequency * x + phase)."""

    height: float
    amplitude: float
    frequency: float
    phase: float


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene.

    Attributes:
        shape: key of SHAPES.
        colour: key of COLOURS.
        texture: name in TEXTURES.
        size: "small" or "large"; "" in a world without sizes.
        x: horizontal position of the centre, in image widths from the left.
        y: vertical position of the centre, in image widths from the top.
        radius: in image widths.
        angle: rotation in radians.
        depth: 0 (far) to 1 (near); nearer objects cover farther ones.
        ground_index: index of the stuff that it stands on, hangs on or floats in; NO_INDEX in a
            world without `standing`, or if it stands on another object.
        base_index: index of the object that it stands on, or NO_INDEX.
        part: its part, or None.
    """

    shape: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    radius: float
    angle: float
    depth: float
    ground_index: int = NO_INDEX
    base_index: int = NO_INDEX
    part: ObjectPart | None = None

    @property
    def kind(self) -> ObjectKind:
        return self.colour, self.shape

    @property
    def bottom(self) -> float:
        """y of its lowest point when upright."""
        return self.y + SHAPES[self.shape].bottom * self.radius


@dataclass(frozen=True)
class SceneLayout:
    """Content of a scene, independent of the image size.

    Attributes:
        place: key of PLACES.
        daytime: name in DAYTIMES.
        boundaries: upper boundaries of all stuff but the topmost.
        objects: in the order of their depth, farthest first.
    """

    place: str
    daytime: str
    boundaries: tuple[StuffBoundary, ...]
    objects: tuple[SceneObject, ...]


def sample_layout(world: World, rng: np.random.Generator) -> SceneLayout:
    """Sample a layout. It has fewer objects than `world.num_objects` if they do not fit."""
    place = choose(rng, world.places)
    daytime = choose(rng, world.daytimes)
    boundaries = _sample_boundaries(PLACES[place].stuff, rng)
    sampler = _LayoutSampler(world, place, boundaries, rng)
    for _ in range(int(rng.integers(world.num_objects[0], world.num_objects[1] + 1))):
        sampler.add_object()
    return SceneLayout(place, daytime, boundaries, sampler.sorted_by_depth())


def choose(rng: np.random.Generator, choices: tuple[Choice, ...] | list[Choice]) -> Choice:
    """Return one of the choices, uniformly at random."""
    return choices[int(rng.integers(len(choices)))]


def _sample_boundaries(
    stuff: tuple[str, ...], rng: np.random.Generator
) -> tuple[StuffBoundary, ...]:
    heights = [rng.uniform(0.4, 0.58)]
    if len(stuff) == 3:
        heights = [rng.uniform(0.26, 0.36), rng.uniform(0.56, 0.68)]
    boundaries = []
    for name, height in zip(stuff[1:], heights, strict=True):
        amplitude = 0.0 if name in STRAIGHT else rng.uniform(0.006, 0.022)
        frequency, phase = rng.uniform(4, 9), rng.uniform(0, 2 * math.pi)
        boundaries.append(
            StuffBoundary(float(height), float(amplitude), float(frequency), float(phase))
        )
    return tuple(boundaries)


class _LayoutSampler:
    """The objects placed so far. `base_index` refers to positions in `objects`."""

    def __init__(
        self,
        world: World,
        place: str,
        boundaries: tuple[StuffBoundary, ...],
        rng: np.random.Generator,
    ):
        self.world, self.stuff, self.rng = world, PLACES[place].stuff, rng
        self.heights = [
            IMAGE_MARGIN,
            *(boundary.height for boundary in boundaries),
            1 - IMAGE_MARGIN,
        ]
        self.objects: list[SceneObject] = []

    def sorted_by_depth(self) -> tuple[SceneObject, ...]:
        """Return the objects from far to near, with `base_index` renumbered."""
        order = sorted(range(len(self.objects)), key=lambda i: self.objects[i].depth)
        new_index = {old: new for new, old in enumerate(order)} | {NO_INDEX: NO_INDEX}
        objects = (self.objects[i] for i in order)
        return tuple(replace(item, base_index=new_index[item.base_index]) for item in objects)

    def add_object(self) -> None:
        """Add an object, unless none of MAX_PLACEMENTS positions is free."""
        appearance = self._sample_appearance()
        for _ in range(MAX_PLACEMENTS):
            placed = self._sample_position(appearance)
            if placed is not None and self._fits(placed):
                self.objects.append(placed)
                return

    def _chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def _sample_appearance(self) -> dict[str, Any]:
        """Sample shape, colour, texture, size and part. Only a repetition equals an object."""
        world, rng = self.world, self.rng
        if self.objects and self._chance(world.repeats):
            other = choose(rng, self.objects)
            if sum(item.kind == other.kind for item in self.objects) < MAX_ALIKE:
                return {n: getattr(other, n) for n in ("shape", "colour", "texture", "size")}
        texture = choose(rng, world.textures) if self._chance(0.5) else world.textures[0]
        size = choose(rng, ("small", "large")) if world.sizes else ""
        colour, shape = self._sample_kind()
        part = self._sample_part(colour) if self._chance(world.parts) else None
        return {"shape": shape, "colour": colour, "texture": texture, "size": size, "part": part}

    def _sample_kind(self) -> ObjectKind:
        world, rng = self.world, self.rng
        if not self.objects and world.featured:
            return choose(rng, world.featured)
        kinds = world.kinds
        if self.objects and self._chance(world.distractors):
            colour, shape = choose(rng, self.objects).kind
            # Exactly one of the two is the same.
            kinds = [k for k in kinds if (k[0] == colour) != (k[1] == shape)] or kinds
        used = {item.kind for item in self.objects}
        return choose(rng, [kind for kind in kinds if kind not in used] or list(kinds))

    def _sample_part(self, colour: str) -> ObjectPart | None:
        """Sample a part that no other object has, of another colour than the object's."""
        used = {item.part for item in self.objects}
        parts = [ObjectPart(n, c) for n in PARTS for c in self.world.colours if c != colour]
        unused = [part for part in parts if part not in used]
        return choose(self.rng, unused) if unused else None

    def _sample_radius(self, size: str, nearness: float) -> float:
        """Sample a radius of this size; among objects of one size nearer ones tend to be larger."""
        low, high = self.world.radii
        start, stop = {"small": SMALL, "large": LARGE, "": (0.0, 1.0)}[size]
        share = (self.rng.random() + nearness) / 2 if self.world.standing else self.rng.random()
        return float(low + (high - low) * (start + (stop - start) * share))

    def _sample_position(self, appearance: dict[str, Any]) -> SceneObject | None:
        world, rng = self.world, self.rng
        if not world.standing:
            radius = self._sample_radius(appearance["size"], 0.5)
            low, high = radius + IMAGE_MARGIN, 1 - radius - IMAGE_MARGIN
            x, y = (float(centre) for centre in rng.uniform(low, high, 2))
            depth = 0.5 + 0.1 * y
            angle = self._sample_angle(0.3)
            return SceneObject(**appearance, x=x, y=y, radius=radius, angle=angle, depth=depth)
        if self._chance(world.stacks):
            return self._stack(appearance)
        hanging = [i for i, name in enumerate(self.stuff) if name in HANGING]
        ground = [i for i, name in enumerate(self.stuff) if name not in HANGING]
        if hanging and self._chance(world.hanging):
            return self._hang(appearance, choose(rng, hanging))
        return self._stand(appearance, choose(rng, ground))

    def _stand(self, appearance: dict[str, Any], ground_index: int) -> SceneObject:
        """Place an object on a ground."""
        low, high = self.heights[ground_index : ground_index + 2]
        bottom = float(self.rng.uniform(low + GROUND_MARGIN, high - GROUND_MARGIN))
        radius = self._sample_radius(appearance["size"], bottom)
        y = bottom - SHAPES[appearance["shape"]].bottom * radius
        return SceneObject(
            **appearance,
            x=self._sample_x(radius),
            y=y,
            radius=radius,
            angle=self._sample_angle(0.06),
            depth=0.2 + 0.8 * bottom,
            ground_index=ground_index,
        )

    def _hang(self, appearance: dict[str, Any], ground_index: int) -> SceneObject | None:
        """Place an object in the sky or on a wall."""
        radius = self._sample_radius(appearance["size"], 0.3)
        low = self.heights[ground_index] + radius
        high = self.heights[ground_index + 1] - radius - GROUND_MARGIN
        if low > high:
            return None
        y = float(self.rng.uniform(low, high))
        return SceneObject(
            **appearance,
            x=self._sample_x(radius),
            y=y,
            radius=radius,
            angle=self._sample_angle(0.25),
            depth=0.1 * float(self.rng.random()),
            ground_index=ground_index,
        )

    def _stack(self, appearance: dict[str, Any]) -> SceneObject | None:
        """Place an object on a larger one that has a flat top and carries nothing yet."""
        carrying = {item.base_index for item in self.objects}
        bases = [
            i
            for i, item in enumerate(self.objects)
            if SHAPES[item.shape].flat_top and i not in carrying
            if item.ground_index != NO_INDEX and self.stuff[item.ground_index] not in HANGING
        ]
        if not bases:
            return None
        base_index = choose(self.rng, bases)
        base = self.objects[base_index]
        radius = self._sample_radius(appearance["size"], base.bottom)
        if radius > base.radius:
            return None
        x = base.x + float(self.rng.uniform(-0.25, 0.25)) * base.radius
        top = base.y - (SHAPES[base.shape].flat_top or 0) * base.radius
        y = top - (SHAPES[appearance["shape"]].bottom - 0.03) * radius
        depth = base.depth + 1e-3
        return SceneObject(
            **appearance, x=x, y=y, radius=radius, angle=0.0, depth=depth, base_index=base_index
        )

    def _sample_x(self, radius: float) -> float:
        return float(self.rng.uniform(radius + IMAGE_MARGIN, 1 - radius - IMAGE_MARGIN))

    def _sample_angle(self, limit: float) -> float:
        return float(self.rng.uniform(-limit, limit))

    def _fits(self, candidate: SceneObject) -> bool:
        """Whether a candidate is inside the image and keeps its distance from all but its base."""
        margin = IMAGE_MARGIN + candidate.radius
        if candidate.y < margin or not margin <= candidate.x <= 1 - margin:
            return False
        for i, other in enumerate(self.objects):
            spacing = self.world.min_spacing * (candidate.radius + other.radius)
            distance = (candidate.x - other.x) ** 2 + (candidate.y - other.y) ** 2
            if distance < spacing**2 and i != candidate.base_index:
                return False
        return True
