"""Where everything is, before anything is drawn: the plan of a scene, drawn by lot.

Things are tried one by one, each where it may be and not too close to the others. Standing things
are nearer the lower their foot is; what hangs is far away.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeVar

import numpy as np

from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.world import HANGING, PARTS, PLACES, ObjectKind, World

Choice = TypeVar("Choice")

TRIES = 40  # places that are tried for one thing
RIM = 0.015  # between a thing and the picture's edge, in widths of the picture
SHORE = 0.03  # between a foot and the edge of what it stands on
STRAIGHT = ("wall", "floor", "water", "road")  # stuff whose upper edge is a line
SMALL, LARGE = (0.0, 0.35), (0.65, 1.0)  # shares of the range of radii
MAX_ALIKE = 3  # things of one kind
NO_INDEX = -1


class ObjectPart(NamedTuple):
    """A part of a thing, of another colour: a band across its middle, or a cap on top."""

    name: str
    colour: str


class StuffBoundary(NamedTuple):
    """The upper edge of some stuff: y = height + swing * sin(waves * x + phase)."""

    height: float
    amplitude: float
    frequency: float
    phase: float


@dataclass(frozen=True)
class SceneObject:
    """One thing. Lengths are in widths of the picture, from its top left corner.

    size: "small", "large", or "" in a world that does not tell. angle: in radians.
    depth: 0 far to 1 near; nearer things cover farther ones.
    area: which stuff of the place it stands on, hangs on or floats in; NOWHERE where the world
        does not tell, or it stands on another thing. base: which thing that is, or NOWHERE.
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
        """Its lowest point, upright."""
        return self.y + SHAPES[self.shape].bottom * self.radius


@dataclass(frozen=True)
class SceneLayout:
    """A scene to be drawn. edges: of all stuff but the topmost. Things are in order of depth."""

    place: str
    daytime: str
    boundaries: tuple[StuffBoundary, ...]
    objects: tuple[SceneObject, ...]


def sample_layout(world: World, rng: np.random.Generator) -> SceneLayout:
    """One plan; it may hold fewer things than wished where there was no room."""
    place = choose(rng, world.places)
    daytime = choose(rng, world.daytimes)
    edges = _draw_edges(PLACES[place].stuff, rng)
    layout = _LayoutSampler(world, place, edges, rng)
    for _ in range(int(rng.integers(world.num_objects[0], world.num_objects[1] + 1))):
        layout.add()
    return SceneLayout(place, daytime, edges, layout.sorted_by_depth())


def choose(rng: np.random.Generator, choices: tuple[Choice, ...] | list[Choice]) -> Choice:
    """One of them, each as likely."""
    return choices[int(rng.integers(len(choices)))]


def _draw_edges(stuff: tuple[str, ...], rng: np.random.Generator) -> tuple[StuffBoundary, ...]:
    heights = [rng.uniform(0.4, 0.58)]
    if len(stuff) == 3:
        heights = [rng.uniform(0.26, 0.36), rng.uniform(0.56, 0.68)]
    edges = []
    for name, height in zip(stuff[1:], heights, strict=True):
        swing = 0.0 if name in STRAIGHT else rng.uniform(0.006, 0.022)
        waves, phase = rng.uniform(4, 9), rng.uniform(0, 2 * math.pi)
        edges.append(StuffBoundary(float(height), float(swing), float(waves), float(phase)))
    return tuple(edges)


class _LayoutSampler:
    """Things so far. They refer to each other by their place in `things`."""

    def __init__(self, world: World, place: str, edges: tuple[StuffBoundary, ...], rng: np.random.Generator):
        self.world, self.stuff, self.rng = world, PLACES[place].stuff, rng
        self.bounds = [RIM, *(edge.height for edge in edges), 1 - RIM]
        self.things: list[SceneObject] = []

    def sorted_by_depth(self) -> tuple[SceneObject, ...]:
        """From far to near, with bases renumbered."""
        order = sorted(range(len(self.things)), key=lambda i: self.things[i].depth)
        number = {old: new for new, old in enumerate(order)} | {NO_INDEX: NO_INDEX}
        things = (self.things[i] for i in order)
        return tuple(replace(thing, base=number[thing.base_index]) for thing in things)

    def add(self) -> None:
        """One more thing, if a place for it is found."""
        look = self._draw_look()
        for _ in range(TRIES):
            thing = self._draw_place(look)
            if thing is not None and self._fits(thing):
                self.things.append(thing)
                return

    def _chance(self, share: float) -> bool:
        return bool(self.rng.random() < share)

    def _draw_look(self) -> dict[str, object]:
        """Shape, colour, texture, size and part. Two things look alike only as a repetition."""
        world, rng = self.world, self.rng
        if self.things and self._chance(world.repeats):
            other = choose(rng, self.things)
            if sum(thing.kind == other.kind for thing in self.things) < MAX_ALIKE:
                return {n: getattr(other, n) for n in ("shape", "colour", "texture", "size")}
        texture = choose(rng, world.textures) if self._chance(0.5) else world.textures[0]
        size = choose(rng, ("small", "large")) if world.sizes else ""
        colour, shape = self._draw_kind()
        part = self._draw_part(colour) if self._chance(world.parts) else None
        return {"shape": shape, "colour": colour, "texture": texture, "size": size, "part": part}

    def _draw_kind(self) -> ObjectKind:
        world, rng = self.world, self.rng
        if not self.things and world.featured:
            return choose(rng, world.featured)
        kinds = world.kinds
        if self.things and self._chance(world.distractors):
            colour, shape = choose(rng, self.things).kind
            # Exactly one of the two is the same.
            kinds = [k for k in kinds if (k[0] == colour) != (k[1] == shape)] or kinds
        taken = {thing.kind for thing in self.things}
        return choose(rng, [kind for kind in kinds if kind not in taken] or list(kinds))

    def _draw_part(self, colour: str) -> ObjectPart | None:
        """A part that no other thing has, in colours that are seen beside each other."""
        taken = {thing.part for thing in self.things}
        parts = [ObjectPart(n, c) for n in PARTS for c in self.world.colours if c != colour]
        free = [part for part in parts if part not in taken]
        return choose(self.rng, free) if free else None

    def _draw_radius(self, size: str, nearness: float) -> float:
        """A radius of this size; of two things of one size the nearer one tends to be larger."""
        low, high = self.world.radii
        start, stop = {"small": SMALL, "large": LARGE, "": (0.0, 1.0)}[size]
        mixed = (self.rng.random() + nearness) / 2 if self.world.standing else self.rng.random()
        return float(low + (high - low) * (start + (stop - start) * mixed))

    def _draw_place(self, look: dict) -> SceneObject | None:
        world, rng = self.world, self.rng
        if not world.standing:
            radius = self._draw_radius(look["size"], 0.5)
            low, high = radius + RIM, 1 - radius - RIM
            x, y = (float(place) for place in rng.uniform(low, high, 2))
            depth = 0.5 + 0.1 * y
            return SceneObject(**look, x=x, y=y, radius=radius, angle=self._angle(0.3), depth=depth)
        if self._chance(world.stacks):
            return self._on_a_thing(look)
        hanging = [i for i, name in enumerate(self.stuff) if name in HANGING]
        ground = [i for i, name in enumerate(self.stuff) if name not in HANGING]
        if hanging and self._chance(world.hanging):
            return self._hanging(look, choose(rng, hanging))
        return self._standing(look, choose(rng, ground))

    def _standing(self, look: dict, area: int) -> SceneObject:
        foot = float(self.rng.uniform(self.bounds[area] + SHORE, self.bounds[area + 1] - SHORE))
        radius = self._draw_radius(look["size"], foot)
        y = foot - SHAPES[look["shape"]].bottom * radius
        return SceneObject(
            **look,
            x=self._across(radius),
            y=y,
            radius=radius,
            angle=self._angle(0.06),
            depth=0.2 + 0.8 * foot,
            ground_index=area,
        )

    def _hanging(self, look: dict, area: int) -> SceneObject | None:
        radius = self._draw_radius(look["size"], 0.3)
        low, high = self.bounds[area] + radius, self.bounds[area + 1] - radius - SHORE
        if low > high:
            return None
        y = float(self.rng.uniform(low, high))
        return SceneObject(
            **look,
            x=self._across(radius),
            y=y,
            radius=radius,
            angle=self._angle(0.25),
            depth=0.1 * float(self.rng.random()),
            ground_index=area,
        )

    def _on_a_thing(self, look: dict) -> SceneObject | None:
        """On something with a flat top that carries nothing, yet, and is no smaller."""
        carrying = {thing.base_index for thing in self.things}
        bases = [
            i
            for i, thing in enumerate(self.things)
            if SHAPES[thing.shape].flat_top and i not in carrying
            if thing.ground_index != NO_INDEX and self.stuff[thing.ground_index] not in HANGING
        ]
        if not bases:
            return None
        base = choose(self.rng, bases)
        below = self.things[base]
        radius = self._draw_radius(look["size"], below.bottom)
        if radius > below.radius:
            return None
        x = below.x + float(self.rng.uniform(-0.25, 0.25)) * below.radius
        top = below.y - (SHAPES[below.shape].flat_top or 0) * below.radius
        y = top - (SHAPES[look["shape"]].bottom - 0.03) * radius
        return SceneObject(
            **look, x=x, y=y, radius=radius, angle=0.0, depth=below.depth + 1e-3, base_index=base
        )

    def _across(self, radius: float) -> float:
        return float(self.rng.uniform(radius + RIM, 1 - radius - RIM))

    def _angle(self, swing: float) -> float:
        return float(self.rng.uniform(-swing, swing))

    def _fits(self, thing: SceneObject) -> bool:
        inside = RIM + thing.radius
        if thing.y < inside or not inside <= thing.x <= 1 - inside:
            return False
        for i, other in enumerate(self.things):
            reach = self.world.min_spacing * (thing.radius + other.radius)
            near = (thing.x - other.x) ** 2 + (thing.y - other.y) ** 2 < reach**2
            if near and i != thing.base_index:
                return False
        return True
