"""Questions about a scene with their answers, by several ways of asking, each true by count.

A question that names a thing names it unambiguously. Kinds that a world withholds are not asked
for, either.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glamm_jax.miniworld.captions import with_article, number_word, place_description
from glamm_jax.miniworld.expressions import (
    DIRECTIONS,
    ObjectQuery,
    is_related,
    is_unambiguous,
    match_objects,
    preposition,
    simple_expression,
)
from glamm_jax.miniworld.layout import NO_INDEX, choose
from glamm_jax.miniworld.scene import Scene

Turn = tuple[str, str]
MAX_TURNS = 4


def vqa_turns(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """Two to four questions of different sorts and their answers, in turns."""
    wanted = int(rng.integers(2, MAX_TURNS + 1))
    turns: list[str] = []
    for i in rng.permutation(len(QUESTIONS)):
        turn = QUESTIONS[int(i)](scene, rng)
        if turn is not None and len(turns) < 2 * wanted:
            turns += turn
    return tuple(turns)


def _how_many(scene: Scene, rng: np.random.Generator) -> Turn:
    """Things of a colour, of a shape or of both; sometimes there are none."""
    colour, shape = _some_kind(scene, rng)
    query = choose(rng, (ObjectQuery(colour, shape, plural=True), ObjectQuery(shape=shape, plural=True)))
    number = len(match_objects(scene, query)[0])
    counted = ObjectQuery(query.colour, query.shape, plural=number != 1)
    verb = "is" if number == 1 else "are"
    return f"How many {query.text} are there?", f"There {verb} {number_word(number)} {counted.text}."


def _is_there(scene: Scene, rng: np.random.Generator) -> Turn:
    query = ObjectQuery(*_some_kind(scene, rng))
    question = f"Is there {with_article(query.text)} in the picture?"
    if match_objects(scene, query)[0]:
        return question, f"Yes, there is {with_article(query.text)}."
    return question, f"No, there is no {query.text}."


def _what_colour(scene: Scene, rng: np.random.Generator) -> Turn | None:
    number = _some_thing(scene, rng)
    thing = scene.objects[number]
    return _ask_about(
        scene,
        number,
        (ObjectQuery(shape=thing.shape), ObjectQuery(shape=thing.shape, size=thing.size)),
        "What colour is the {}?",
        f"It is {thing.colour}.",
    )


def _what_shape(scene: Scene, rng: np.random.Generator) -> Turn | None:
    number = _some_thing(scene, rng)
    thing = scene.objects[number]
    return _ask_about(
        scene,
        number,
        (ObjectQuery(thing.colour), ObjectQuery(thing.colour, size=thing.size)),
        "What shape does the {} have?",
        f"It is {with_article(thing.shape)}.",
    )


def _where(scene: Scene, rng: np.random.Generator) -> Turn | None:
    number = _some_thing(scene, rng)
    thing, name = scene.objects[number], simple_expression(scene, number)
    if thing.ground_index == NO_INDEX or name is None:
        return None
    ground = scene.stuff[thing.ground_index]
    return f"Where is the {name.text}?", f"It is {preposition(ground)} the {ground}."


def _is_it_so(scene: Scene, rng: np.random.Generator) -> Turn | None:
    """Whether one thing is left of another, or the like, where that is beyond doubt."""
    if len(scene.objects) < 2:
        return None
    a, b = (int(i) for i in rng.permutation(len(scene.objects))[:2])
    relation = choose(rng, tuple(DIRECTIONS))
    one, other = simple_expression(scene, a), simple_expression(scene, b)
    surely = is_related(scene, relation, a, b, certain=True)
    if one is None or other is None or surely != is_related(scene, relation, a, b, certain=False):
        return None
    answer = "Yes, it is." if surely else "No, it is not."
    return f"Is the {one.text} {relation} the {other.text}?", answer


def _what_place(scene: Scene, rng: np.random.Generator) -> Turn:
    return "What kind of place is this?", f"This is {place_description(scene)}."


QUESTIONS: tuple[Callable[[Scene, np.random.Generator], Turn | None], ...] = (
    _how_many,
    _is_there,
    _what_colour,
    _what_shape,
    _where,
    _is_it_so,
    _what_place,
)


def _some_thing(scene: Scene, rng: np.random.Generator) -> int:
    return int(rng.integers(len(scene.objects)))


def _some_kind(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Of a thing that is there, or one that shares its colour or shape with it."""
    colour, shape = scene.objects[_some_thing(scene, rng)].kind
    if rng.random() < 0.5:
        return colour, shape
    return choose(rng, [k for k in scene.world.kinds if k[0] == colour or k[1] == shape])


def _ask_about(
    scene: Scene, number: int, ways: tuple[ObjectQuery, ...], question: str, answer: str
) -> Turn | None:
    """Ask about a thing by the first name that means it alone."""
    only = frozenset((number,))
    for query in ways:
        if is_unambiguous(scene, query, only):
            return question.format(query.text), answer
    return None
