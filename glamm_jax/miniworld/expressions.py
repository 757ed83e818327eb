"""Expressions that mean exactly what they should: every one is tried on every thing of its scene.

An expression is a `Query`, which says what it demands, and its words. Some demands are vague: is
the star "left of" the ring when it is hardly so? `meant` finds who fits for certain and who may
fit; an expression is unambiguous when these are the same, and the ones that it should mean.

    leftmost large striped red star on the grass        left of the blue ring
    extreme  size  texture colour shape ground          relation    other
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from glamm_jax.miniworld.layout import NO_INDEX, SceneObject
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.world import HANGING

CLEAR, VAGUE = 0.08, -0.02  # a shift that is one for certain, and one that may be, in widths
COVERED = 0.03  # share of a thing that is covered, for certain
Indices = frozenset[int]


class ObjectQuery(NamedTuple):
    """What an expression demands; "" and None demand nothing.

    plural: it means all that fit. ground: name of stuff. extreme: a key of EXTREMES, among all
    that fit the rest. relation: a key of RELATIONS, to the thing that `other` means.
    """

    colour: str = ""
    shape: str = ""
    texture: str = ""
    size: str = ""
    plural: bool = False
    ground: str = ""
    extreme: str = ""
    relation: str = ""
    other: ObjectQuery | None = None

    @property
    def text(self) -> str:
        noun = (self.shape or "thing") + self.plural * ("es" if self.shape == "cross" else "s")
        words = [self.extreme, self.size, self.texture, self.colour, noun]
        if self.ground:
            words += [preposition(self.ground), "the", self.ground]
        if self.other is not None:
            words += [self.relation, "the", self.other.text]
        return " ".join(word for word in words if word)


def preposition(ground: str) -> str:
    """In the sky, on everything else."""
    return "in" if ground == "sky" else "on"


# ---------------------------------------------------------------- what is true

Displacement = Callable[[SceneObject, SceneObject], tuple[float, float]]

# Direction -> how far a thing lies that way from another, and how far it lies aside.
DIRECTIONS: dict[str, Displacement] = {
    "left of": lambda a, b: (b.x - a.x, abs(a.y - b.y)),
    "right of": lambda a, b: (a.x - b.x, abs(a.y - b.y)),
    "above": lambda a, b: (b.y - a.y, abs(a.x - b.x)),
    "below": lambda a, b: (a.y - b.y, abs(a.x - b.x)),
}
RELATIONS = (*DIRECTIONS, "in front of", "behind", "standing on")
EXTREMES = {"leftmost": "left of", "rightmost": "right of", "topmost": "above", "lowest": "below"}


def is_related(scene: Scene, relation: str, a: int, b: int, *, certain: bool) -> bool:
    """Whether thing a stands in this relation to thing b: for certain, or possibly."""
    one, other = scene.objects[a], scene.objects[b]
    if a == b:
        return False
    if relation in DIRECTIONS:
        along, aside = DIRECTIONS[relation](one, other)
        return along > CLEAR and 2 * along > aside if certain else along > VAGUE
    if relation == "standing on":
        return one.base_index == b
    front, back = (a, b) if relation == "in front of" else (b, a)
    hidden = scene.covered_pixels(front, back)
    if certain:
        return hidden > COVERED * float(scene.rendering.object_areas[back])
    near, far = scene.objects[front], scene.objects[back]
    close = abs(near.x - far.x) < near.radius + far.radius
    return hidden > 0 or (close and near.depth > far.depth)


def match_objects(scene: Scene, query: ObjectQuery) -> tuple[Indices, Indices]:
    """The things that fit a query for certain, and all that may."""
    certain = possible = frozenset(
        i for i, thing in enumerate(scene.objects) if _looks(thing, query)
    )
    if query.ground:
        certain = frozenset(i for i in certain if _is_on(scene, i, query.ground, certain=True))
        possible = frozenset(i for i in possible if _is_on(scene, i, query.ground, certain=False))
    if query.other is not None:
        sure, perhaps = match_objects(scene, query.other)
        certain = _related(scene, query.relation, certain, sure, certain=True)
        possible = _related(scene, query.relation, possible, perhaps, certain=False)
    if query.extreme:
        return _extremes(scene, query.extreme, certain, possible)
    return certain, possible


def is_unambiguous(scene: Scene, query: ObjectQuery, targets: Indices) -> bool:
    """Whether a query means these things and nothing else could be meant."""
    if query.other is not None and not _means_one(match_objects(scene, query.other)):
        return False
    return match_objects(scene, query) == (targets, targets)


def _means_one(found: tuple[Indices, Indices]) -> bool:
    return found[0] == found[1] and len(found[0]) == 1


def _looks(thing: SceneObject, query: ObjectQuery) -> bool:
    return (
        query.colour in ("", thing.colour)
        and query.shape in ("", thing.shape)
        and query.texture in ("", thing.texture)
        and query.size in ("", thing.size)
    )


def _related(
    scene: Scene, relation: str, things: Indices, others: Indices, *, certain: bool
) -> Indices:
    """Those of the things that stand in a relation to one of the others."""
    pairs = ((i, j) for i in things for j in others)
    return frozenset(i for i, j in pairs if is_related(scene, relation, i, j, certain=certain))


def _is_on(scene: Scene, number: int, ground: str, *, certain: bool) -> bool:
    """Whether something stands or hangs on some stuff; on a heap, at most possibly."""
    thing = scene.objects[number]
    if thing.base_index != NO_INDEX:
        return not certain and ground not in HANGING
    return thing.ground_index != NO_INDEX and scene.stuff[thing.ground_index] == ground


def _extremes(
    scene: Scene, extreme: str, certain: Indices, possible: Indices
) -> tuple[Indices, Indices]:
    """Who is farther in a direction than all others by a clear distance; else nobody for sure."""
    farther = DIRECTIONS[EXTREMES[extreme]]
    for i in certain:
        shifts = [farther(scene.objects[i], scene.objects[j])[0] for j in possible if j != i]
        if shifts and min(shifts) > CLEAR:
            return frozenset((i,)), frozenset((i,))
    return frozenset(), possible


# ---------------------------------------------------------------- how to say it


def appearance_query(thing: SceneObject, *, plural: bool = False) -> ObjectQuery:
    """All that is seen of a thing at first sight."""
    texture = "" if thing.texture == "plain" else thing.texture
    return ObjectQuery(thing.colour, thing.shape, texture, thing.size, plural)


def simple_expression(scene: Scene, number: int) -> ObjectQuery | None:
    """The plainest unambiguous one: colour and shape, and more where that is not enough."""
    full = appearance_query(scene.objects[number])
    plain = ObjectQuery(full.colour, full.shape)
    looks = (plain, plain._replace(size=full.size), plain._replace(texture=full.texture), full)
    extremes = (plain._replace(extreme=extreme) for extreme in EXTREMES)
    return _first(scene, chain(looks, extremes), number)


def rich_expression(scene: Scene, number: int, rng: np.random.Generator) -> ObjectQuery | None:
    """An unambiguous one by another way: less of its look, its ground, or its neighbours."""
    queries = list(_ways(scene, number))
    return _first(scene, (queries[int(i)] for i in rng.permutation(len(queries))), number)


def plural_expression(scene: Scene, number: int) -> tuple[ObjectQuery, Indices] | None:
    """All things of one colour and shape, where there are several."""
    kind = scene.objects[number].kind
    query = ObjectQuery(*kind, plural=True)
    alike = frozenset(i for i, thing in enumerate(scene.objects) if thing.kind == kind)
    return (query, alike) if len(alike) > 1 and is_unambiguous(scene, query, alike) else None


def _first(scene: Scene, queries: Iterable[ObjectQuery], number: int) -> ObjectQuery | None:
    only = frozenset((number,))
    return next((query for query in queries if is_unambiguous(scene, query, only)), None)


def _ways(scene: Scene, number: int) -> Iterator[ObjectQuery]:
    thing = scene.objects[number]
    full = appearance_query(thing)
    plain, shape, colour = ObjectQuery(*thing.kind), ObjectQuery(shape=thing.shape), ObjectQuery(colour=thing.colour)
    yield from (shape, colour)
    yield from (plain._replace(extreme=extreme) for extreme in EXTREMES)
    yield from (shape._replace(extreme=extreme) for extreme in EXTREMES)
    if full.size:
        yield from (shape._replace(size=full.size), colour._replace(size=full.size))
    if full.texture:
        yield from (shape._replace(texture=full.texture), colour._replace(texture=full.texture))
    if thing.ground_index != NO_INDEX:
        ground = scene.stuff[thing.ground_index]
        yield from (plain._replace(ground=ground), shape._replace(ground=ground))
    for other in range(len(scene.objects)):
        neighbour = None if other == number else simple_expression(scene, other)
        if neighbour is None or neighbour.extreme:
            continue
        for relation in RELATIONS:
            if is_related(scene, relation, number, other, certain=True):
                yield plain._replace(relation=relation, other=neighbour)
                yield shape._replace(relation=relation, other=neighbour)
