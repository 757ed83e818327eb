"""Captions of scenes whose phrases are linked to what they describe.

    "On the grass there are a red star with a white band and two blue rings."

Phrases: "the grass", "a red star", "a white band", "two blue rings" (of two objects). Texts follow
simple templates. No phrase occurs twice in a caption.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from glamm_jax.miniworld.expressions import (
    DIRECTIONS,
    RELATIONS,
    appearance_query,
    is_related,
    preposition,
    simple_expression,
)
from glamm_jax.miniworld.layout import NO_INDEX, SceneObject
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.world import MAX_RELATIONS

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DEPTH_RELATIONS = tuple(name for name in RELATIONS if name not in DIRECTIONS)
EntityCategory = Literal["stuff", "object", "part"]


class SceneEntity(NamedTuple):
    """Something in a scene that has a mask.

    Attributes:
        category: stuff, an object, or the part of an object.
        index: of the stuff or of the object.
    """

    category: EntityCategory
    index: int


class EntityPhrase(NamedTuple):
    """A phrase and the entities that it describes."""

    text: str
    entities: tuple[SceneEntity, ...]


class PhraseSpan(NamedTuple):
    """A phrase within a text, from character `start` to `end` (exclusive)."""

    start: int
    end: int
    entities: tuple[SceneEntity, ...]


class SceneCaption(NamedTuple):
    """A text and its phrases in the order of the text."""

    text: str
    phrases: tuple[PhraseSpan, ...]


CaptionPieces = list[str | EntityPhrase]


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def number_word(number: int) -> str:
    """Return a number as a word, or as digits above ten."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def place_description(scene: Scene) -> str:
    """Return place and time of day, such as "a meadow at night"."""
    daytime = {"day": "", "evening": " in the evening", "night": " at night"}[scene.layout.daytime]
    return with_article(scene.layout.place) + daytime


def dense_caption(scene: Scene, rng: np.random.Generator) -> SceneCaption:
    """Return a caption of all objects and parts; in rich style, of their ground and relations."""
    groups = list(_similar_objects(scene))
    if scene.world.text_style == "plain":
        enumeration = _enumerate([_group(scene, group) for group in groups])
        return _join(["The picture shows ", *enumeration, "."])
    pieces: CaptionPieces = []
    for ground_index, name in enumerate(scene.stuff):
        present = [g for g in groups if scene.objects[g[0]].ground_index == ground_index]
        entities = (SceneEntity("stuff", ground_index),)
        pieces.append(" " if pieces else "")
        if not present:
            pieces += [EntityPhrase(f"The {name}", entities), " is empty."]
            continue
        verb = " there are " if sum(map(len, present)) > 1 else " there is "
        start = f"{preposition(name).capitalize()} "
        pieces += [start, EntityPhrase(f"the {name}", entities), verb]
        pieces += [*_enumerate([_group(scene, group) for group in present]), "."]
    return _join([*pieces, *_relations(scene, rng)])


def short_captions(scene: Scene, rng: np.random.Generator) -> tuple[SceneCaption, SceneCaption]:
    """Return two captions of one sentence: of the largest object, and of the place."""
    order = sorted(range(len(scene.objects)), key=lambda i: -int(scene.object_mask(i).sum()))
    return _main_object(scene, order, rng), _overview(scene, order)


def object_description(scene: Scene, index: int) -> str:
    """Return a description of one object, as the caption of its region."""
    item = scene.objects[index]
    pieces = _object_with_part(scene, index)
    text = "".join(piece if isinstance(piece, str) else piece.text for piece in pieces)
    if item.ground_index == NO_INDEX:
        return text
    ground = scene.stuff[item.ground_index]
    return f"{text} {preposition(ground)} the {ground}"


def _similar_objects(scene: Scene) -> Iterator[tuple[int, ...]]:
    """Yield groups of objects that one phrase can name, from left to right.

    Objects that carry another one or have a part are a group of their own. Stacked objects are in
    no group: they are named together with their base.
    """
    carrying = {item.base_index for item in scene.objects}
    groups: dict[object, list[int]] = {}
    order = sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].x)
    for i in order:
        item = scene.objects[i]
        if item.base_index != NO_INDEX:
            continue
        single = i if i in carrying or item.part else NO_INDEX
        groups.setdefault((appearance_query(item), item.ground_index, single), []).append(i)
    yield from map(tuple, groups.values())


def _group(scene: Scene, group: tuple[int, ...]) -> CaptionPieces:
    """Name one object with its part and what stands on it, or several similar objects."""
    first, *others = group
    if others:
        query = appearance_query(scene.objects[first], plural=True)
        entities = tuple(SceneEntity("object", i) for i in group)
        return [EntityPhrase(f"{number_word(len(group))} {query.text}", entities)]
    pieces = _object_with_part(scene, first)
    for i, item in enumerate(scene.objects):
        if item.base_index == first:
            pieces = [*_object_with_part(scene, i), " standing on ", *pieces]
    return pieces


def _object_with_part(scene: Scene, index: int) -> CaptionPieces:
    item = scene.objects[index]
    name = with_article(appearance_query(item).text)
    pieces: CaptionPieces = [EntityPhrase(name, (SceneEntity("object", index),))]
    if item.part is not None:
        part = with_article(f"{item.part.colour} {item.part.name}")
        pieces += [" with ", EntityPhrase(part, (SceneEntity("part", index),))]
    return pieces


def _enumerate(items: list[CaptionPieces]) -> CaptionPieces:
    """Join items as in "a, b and c"."""
    pieces = list(items[0])
    for i, item in enumerate(items[1:], 1):
        pieces += [" and " if i + 1 == len(items) else ", ", *item]
    return pieces


def _relations(scene: Scene, rng: np.random.Generator) -> CaptionPieces:
    """Return up to MAX_RELATIONS sentences that relate two objects; no object occurs twice."""
    standing = [i for i in range(len(scene.objects)) if scene.objects[i].base_index == NO_INDEX]
    names = {i: query.text for i in standing if (query := simple_expression(scene, i)) is not None}
    pairs = [(a, b) for a in names for b in names if a != b]
    pieces: CaptionPieces = []
    for relation in [*DEPTH_RELATIONS, *rng.permutation(tuple(DIRECTIONS))]:
        for k in rng.permutation(len(pairs)):
            a, b = pairs[int(k)]
            if a in names and b in names and is_related(scene, str(relation), a, b, certain=True):
                first = EntityPhrase(f"The {names.pop(a)}", (SceneEntity("object", a),))
                second = EntityPhrase(f"the {names.pop(b)}", (SceneEntity("object", b),))
                pieces += [" ", first, f" is {relation} ", second, "."]
                if len(pieces) >= 5 * MAX_RELATIONS:
                    return pieces
    return pieces


def _main_object(scene: Scene, order: list[int], rng: np.random.Generator) -> SceneCaption:
    """Describe the largest object and, in rich style, one that it is related to."""
    main = order[0]
    name = with_article(_plain_name(scene.objects[main]))
    phrase = EntityPhrase(_capitalize(name), (SceneEntity("object", main),))
    related = [
        (relation, i)
        for i in order[1:]
        for relation in RELATIONS
        if is_related(scene, relation, main, i, certain=True)
        and scene.objects[i].kind != scene.objects[main].kind
    ]
    if not related or scene.world.text_style == "plain":
        return _join([phrase, " can be seen."])
    relation, other = related[int(rng.integers(len(related)))]
    other_name = with_article(_plain_name(scene.objects[other]))
    second = EntityPhrase(other_name, (SceneEntity("object", other),))
    return _join([phrase, f" is {relation} ", second, "."])


def _overview(scene: Scene, order: list[int]) -> SceneCaption:
    """Describe the place and the objects in it."""
    groups: dict[str, list[int]] = {}
    for i in order:
        groups.setdefault(_plain_name(scene.objects[i]), []).append(i)
    items: list[CaptionPieces] = []
    for name, group in groups.items():
        entities = tuple(SceneEntity("object", i) for i in group)
        query = appearance_query(scene.objects[group[0]], plural=True)
        plural = f"{number_word(len(group))} {query.colour} {query.text.split()[-1]}"
        items.append([EntityPhrase(with_article(name) if len(group) == 1 else plural, entities)])
    return _join([f"{_capitalize(place_description(scene))} with ", *_enumerate(items), "."])


def _plain_name(item: SceneObject) -> str:
    return f"{item.colour} {item.shape}"


def _capitalize(text: str) -> str:
    return text[0].upper() + text[1:]


def _join(pieces: CaptionPieces) -> SceneCaption:
    """Concatenate the pieces. Repeated phrases get "another" or "one more" as their article."""
    text, spans = "", []
    counts: Counter[str] = Counter()
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        phrase, count = piece.text, counts[piece.text]
        counts[piece.text] += 1
        first, _, noun = phrase.partition(" ")
        if count and first in ("a", "an"):
            phrase = f"another {noun}" if count == 1 else f"one more {noun}"
        start = len(text)
        text += phrase
        spans.append(PhraseSpan(start, len(text), piece.entities))
    return SceneCaption(text, tuple(spans))
