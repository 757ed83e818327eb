"""Questions about a scene with their answers, from several templates.

Questions name objects unambiguously. Kinds that a world withholds occur in no question.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from glamm_jax.miniworld.captions import number_word, place_description, with_article
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

QuestionAnswer = tuple[str, str]
MAX_QUESTIONS = 4


def vqa_turns(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """Return two to four questions from different templates, each followed by its answer."""
    num_questions = int(rng.integers(2, MAX_QUESTIONS + 1))
    turns: list[str] = []
    for i in rng.permutation(len(QUESTIONS)):
        turn = QUESTIONS[int(i)](scene, rng)
        if turn is not None and len(turns) < 2 * num_questions:
            turns += turn
    return tuple(turns)


def _how_many(scene: Scene, rng: np.random.Generator) -> QuestionAnswer:
    """Ask for the number of objects of a shape, with or without a colour; it may be 0."""
    colour, shape = _sample_kind(scene, rng)
    query = choose(
        rng, (ObjectQuery(colour, shape, plural=True), ObjectQuery(shape=shape, plural=True))
    )
    number = len(match_objects(scene, query)[0])
    noun = ObjectQuery(query.colour, query.shape, plural=number != 1).text
    verb = "is" if number == 1 else "are"
    return f"How many {query.text} are there?", f"There {verb} {number_word(number)} {noun}."


def _is_there(scene: Scene, rng: np.random.Generator) -> QuestionAnswer:
    query = ObjectQuery(*_sample_kind(scene, rng))
    question = f"Is there {with_article(query.text)} in the picture?"
    if match_objects(scene, query)[0]:
        return question, f"Yes, there is {with_article(query.text)}."
    return question, f"No, there is no {query.text}."


def _what_colour(scene: Scene, rng: np.random.Generator) -> QuestionAnswer | None:
    index = _sample_object(scene, rng)
    item = scene.objects[index]
    queries = (ObjectQuery(shape=item.shape), ObjectQuery(shape=item.shape, size=item.size))
    name = _first_unambiguous(scene, index, queries)
    if name is None:
        return None
    return f"What colour is the {name}?", f"It is {item.colour}."


def _what_shape(scene: Scene, rng: np.random.Generator) -> QuestionAnswer | None:
    index = _sample_object(scene, rng)
    item = scene.objects[index]
    queries = (ObjectQuery(item.colour), ObjectQuery(item.colour, size=item.size))
    name = _first_unambiguous(scene, index, queries)
    if name is None:
        return None
    return f"What shape does the {name} have?", f"It is {with_article(item.shape)}."


def _where(scene: Scene, rng: np.random.Generator) -> QuestionAnswer | None:
    index = _sample_object(scene, rng)
    item, query = scene.objects[index], simple_expression(scene, index)
    if item.ground_index == NO_INDEX or query is None:
        return None
    ground = scene.stuff[item.ground_index]
    return f"Where is the {query.text}?", f"It is {preposition(ground)} the {ground}."


def _is_it_related(scene: Scene, rng: np.random.Generator) -> QuestionAnswer | None:
    """Ask whether one object is left of another one, or the like, unless the answer is vague."""
    if len(scene.objects) < 2:
        return None
    a, b = (int(i) for i in rng.permutation(len(scene.objects))[:2])
    relation = choose(rng, tuple(DIRECTIONS))
    first, second = simple_expression(scene, a), simple_expression(scene, b)
    certain = is_related(scene, relation, a, b, certain=True)
    possible = is_related(scene, relation, a, b, certain=False)
    if first is None or second is None or certain != possible:
        return None
    answer = "Yes, it is." if certain else "No, it is not."
    return f"Is the {first.text} {relation} the {second.text}?", answer


def _what_place(scene: Scene, rng: np.random.Generator) -> QuestionAnswer:
    return "What kind of place is this?", f"This is {place_description(scene)}."


QUESTIONS: tuple[Callable[[Scene, np.random.Generator], QuestionAnswer | None], ...] = (
    _how_many,
    _is_there,
    _what_colour,
    _what_shape,
    _where,
    _is_it_related,
    _what_place,
)


def _sample_object(scene: Scene, rng: np.random.Generator) -> int:
    return int(rng.integers(len(scene.objects)))


def _sample_kind(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    """Return the kind of an object, or in half of the cases one that shares colour or shape."""
    colour, shape = scene.objects[_sample_object(scene, rng)].kind
    if rng.random() < 0.5:
        return colour, shape
    return choose(rng, [k for k in scene.world.kinds if k[0] == colour or k[1] == shape])


def _first_unambiguous(scene: Scene, index: int, queries: tuple[ObjectQuery, ...]) -> str | None:
    """Return the text of the first query that refers to the object alone."""
    targets = frozenset((index,))
    return next((query.text for query in queries if is_unambiguous(scene, query, targets)), None)
