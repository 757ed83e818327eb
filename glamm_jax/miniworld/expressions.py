"""Unambiguous referring expressions.

An expression is an `ObjectQuery`: a set of conditions with the text that states them. Some
conditions are vague: an object may be hardly "left of" another one. `match_objects` finds the
objects that match for certain and those that match possibly. An expression is unambiguous for some
target objects if both sets are exactly the targets.

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

# Minimum offset in a direction, in image widths, for a certain and for a possible relation.
CERTAIN_OFFSET, POSSIBLE_OFFSET = 0.08, -0.02
CERTAIN_COVERED_SHARE = 0.03  # share of an object's pixels that is covered for certain
Indices = frozenset[int]


class ObjectQuery(NamedTuple):
    """Conditions that an object has to meet; "" and None are no condition.

    Attributes:
        colour: key of COLOURS.
        shape: key of SHAPES.
        texture: name in TEXTURES.
        size: "small" or "large".
        plural: the expression refers to all matching objects.
        ground: name of the stuff that the object stands on, hangs on or floats in.
        extreme: key of EXTREMES; compares the objects that meet the other conditions.
        relation: one of RELATIONS, to the object that `other` refers to.
        other: query of the related object.
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
    """Return "in" for the sky, "on" for all other stuff."""
    return "in" if ground == "sky" else "on"


# ---------------------------------------------------------------- matching

Displacement = Callable[[SceneObject, SceneObject], tuple[float, float]]

# Direction -> offset of an object from another one in that direction, and across it.
DIRECTIONS: dict[str, Displacement] = {
    "left of": lambda a, b: (b.x - a.x, abs(a.y - b.y)),
    "right of": lambda a, b: (a.x - b.x, abs(a.y - b.y)),
    "above": lambda a, b: (b.y - a.y, abs(a.x - b.x)),
    "below": lambda a, b: (a.y - b.y, abs(a.x - b.x)),
}
RELATIONS = (*DIRECTIONS, "in front of", "behind", "standing on")
EXTREMES = {"leftmost": "left of", "rightmost": "right of", "topmost": "above", "lowest": "below"}


def is_related(scene: Scene, relation: str, a: int, b: int, *, certain: bool) -> bool:
    """Whether object `a` has a relation to object `b`.

    Args:
        scene: the scene.
        relation: one of RELATIONS.
        a: index of the first object.
        b: index of the second object.
        certain: whether it has the relation for certain; False: at least possibly.
    """
    first, second = scene.objects[a], scene.objects[b]
    if a == b:
        return False
    if relation in DIRECTIONS:
        along, across = DIRECTIONS[relation](first, second)
        if certain:
            return along > CERTAIN_OFFSET and 2 * along > across
        return along > POSSIBLE_OFFSET
    if relation == "standing on":
        return first.base_index == b
    front, back = (a, b) if relation == "in front of" else (b, a)
    covered = scene.covered_pixels(front, back)
    if certain:
        return covered > CERTAIN_COVERED_SHARE * float(scene.rendering.object_areas[back])
    near, far = scene.objects[front], scene.objects[back]
    overlap = abs(near.x - far.x) < near.radius + far.radius
    return covered > 0 or (overlap and near.depth > far.depth)


def match_objects(scene: Scene, query: ObjectQuery) -> tuple[Indices, Indices]:
    """Return the objects that match a query for certain, and those that match at least possibly."""
    certain = possible = frozenset(
        i
        for i, item in enumerate(scene.objects)
        if query.colour in ("", item.colour)
        and query.shape in ("", item.shape)
        and query.texture in ("", item.texture)
        and query.size in ("", item.size)
    )
    if query.ground:
        certain = frozenset(i for i in certain if _is_on(scene, i, query.ground, certain=True))
        possible = frozenset(i for i in possible if _is_on(scene, i, query.ground, certain=False))
    if query.other is not None:
        others = match_objects(scene, query.other)
        certain = _related(scene, query.relation, certain, others[0], certain=True)
        possible = _related(scene, query.relation, possible, others[1], certain=False)
    if query.extreme:
        return _extremes(scene, query.extreme, certain, possible)
    return certain, possible


def is_unambiguous(scene: Scene, query: ObjectQuery, targets: Indices) -> bool:
    """Whether a query matches exactly the targets, and its related object is unambiguous too.

    Args:
        scene: the scene.
        query: conditions.
        targets: indices of the objects that it has to refer to.
    """
    if query.other is not None:
        certain, possible = match_objects(scene, query.other)
        if certain != possible or len(certain) != 1:
            return False
    return match_objects(scene, query) == (targets, targets)


def _related(
    scene: Scene, relation: str, candidates: Indices, others: Indices, *, certain: bool
) -> Indices:
    """Return the candidates that have a relation to any of the others."""
    pairs = ((i, j) for i in candidates for j in others)
    return frozenset(i for i, j in pairs if is_related(scene, relation, i, j, certain=certain))


def _is_on(scene: Scene, index: int, ground: str, *, certain: bool) -> bool:
    """Whether an object stands or hangs on some stuff; a stacked object does so only possibly."""
    item = scene.objects[index]
    if item.base_index != NO_INDEX:
        return not certain and ground not in HANGING
    return item.ground_index != NO_INDEX and scene.stuff[item.ground_index] == ground


def _extremes(
    scene: Scene, extreme: str, certain: Indices, possible: Indices
) -> tuple[Indices, Indices]:
    """Return the object that leads all others by a clear offset; without one, none is certain."""
    displacement = DIRECTIONS[EXTREMES[extreme]]
    for i in certain:
        offsets = [displacement(scene.objects[i], scene.objects[j])[0] for j in possible if j != i]
        if offsets and min(offsets) > CERTAIN_OFFSET:
            return frozenset((i,)), frozenset((i,))
    return frozenset(), possible


# ---------------------------------------------------------------- generation


def appearance_query(item: SceneObject, *, plural: bool = False) -> ObjectQuery:
    """Return the query for an object's colour, shape, texture and size."""
    texture = "" if item.texture == "plain" else item.texture
    return ObjectQuery(item.colour, item.shape, texture, item.size, plural)


def simple_expression(scene: Scene, index: int) -> ObjectQuery | None:
    """Return the simplest unambiguous expression: colour and shape, and more only if needed."""
    full = appearance_query(scene.objects[index])
    plain = ObjectQuery(full.colour, full.shape)
    queries = (plain, plain._replace(size=full.size), plain._replace(texture=full.texture), full)
    extremes = (plain._replace(extreme=extreme) for extreme in EXTREMES)
    return _first_unambiguous(scene, chain(queries, extremes), index)


def rich_expression(scene: Scene, index: int, rng: np.random.Generator) -> ObjectQuery | None:
    """Return a random unambiguous expression of another form than the simple one.

    It uses fewer attributes, the ground, an extreme position or a relation to another object.

    Args:
        scene: the scene.
        index: index of the object.
        rng: random generator.

    Returns:
        The expression; None if no form is unambiguous.
    """
    queries = list(_rich_queries(scene, index))
    permuted = (queries[int(i)] for i in rng.permutation(len(queries)))
    return _first_unambiguous(scene, permuted, index)


def plural_expression(scene: Scene, index: int) -> tuple[ObjectQuery, Indices] | None:
    """Return an expression for all objects of an object's kind, and their indices.

    Returns:
        None if the object is the only one of its kind, or the expression is ambiguous.
    """
    kind = scene.objects[index].kind
    query = ObjectQuery(*kind, plural=True)
    indices = frozenset(i for i, item in enumerate(scene.objects) if item.kind == kind)
    unambiguous = len(indices) > 1 and is_unambiguous(scene, query, indices)
    return (query, indices) if unambiguous else None


def _first_unambiguous(
    scene: Scene, queries: Iterable[ObjectQuery], index: int
) -> ObjectQuery | None:
    targets = frozenset((index,))
    return next((query for query in queries if is_unambiguous(scene, query, targets)), None)


def _rich_queries(scene: Scene, index: int) -> Iterator[ObjectQuery]:
    item = scene.objects[index]
    full = appearance_query(item)
    plain = ObjectQuery(*item.kind)
    shape, colour = ObjectQuery(shape=item.shape), ObjectQuery(colour=item.colour)
    yield from (shape, colour)
    yield from (plain._replace(extreme=extreme) for extreme in EXTREMES)
    yield from (shape._replace(extreme=extreme) for extreme in EXTREMES)
    if full.size:
        yield from (shape._replace(size=full.size), colour._replace(size=full.size))
    if full.texture:
        yield from (shape._replace(texture=full.texture), colour._replace(texture=full.texture))
    if item.ground_index != NO_INDEX:
        ground = scene.stuff[item.ground_index]
        yield from (plain._replace(ground=ground), shape._replace(ground=ground))
    for other in range(len(scene.objects)):
        query = None if other == index else simple_expression(scene, other)
        if query is None or query.extreme:
            continue
        for relation in RELATIONS:
            if is_related(scene, relation, index, other, certain=True):
                yield plain._replace(relation=relation, other=query)
                yield shape._replace(relation=relation, other=query)
