"""What can be said about a whole scene: captions whose phrases know what they speak of.

    "On the grass there are a red star with a white band and two blue rings."

Phrases: "the grass", "a red star", "a white band", "two blue rings" (of two things). Texts are
plain and regular, and no phrase stands in a caption twice.
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
CLOSE_RELATIONS = tuple(name for name in RELATIONS if name not in DIRECTIONS)
EntityCategory = Literal["stuff", "thing", "part"]


class SceneEntity(NamedTuple):
    """Something in a scene: stuff, a thing or a thing's part, with its number."""

    category: EntityCategory
    index: int


class EntityPhrase(NamedTuple):
    """Words, and all that they speak of."""

    text: str
    entities: tuple[SceneEntity, ...]


class PhraseSpan(NamedTuple):
    """A phrase and its place in a text."""

    start: int
    end: int
    entities: tuple[SceneEntity, ...]


class SceneCaption(NamedTuple):
    """A text and its phrases, in the order of the text."""

    text: str
    phrases: tuple[PhraseSpan, ...]


CaptionPieces = list[str | EntityPhrase]


def with_article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def number_word(number: int) -> str:
    """A small number as a word."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def place_description(scene: Scene) -> str:
    """Where it is: "a meadow at night"."""
    hour = {"day": "", "evening": " in the evening", "night": " at night"}[scene.layout.daytime]
    return with_article(scene.layout.place) + hour


def dense_caption(scene: Scene, rng: np.random.Generator) -> SceneCaption:
    """Everything: all things with their parts, and in rich words, where they are."""
    groups = list(_alike(scene))
    if scene.world.text_style == "plain":
        listed = _list_of([_group(scene, group) for group in groups])
        return _caption(["The picture shows ", *listed, "."])
    words: CaptionPieces = []
    for area, name in enumerate(scene.stuff):
        here = [group for group in groups if scene.objects[group[0]].ground_index == area]
        mentions = (SceneEntity("stuff", area),)
        words.append(" " if words else "")
        if not here:
            words += [EntityPhrase(f"The {name}", mentions), " is empty."]
            continue
        there_are = " there are " if sum(map(len, here)) > 1 else " there is "
        words += [f"{preposition(name).capitalize()} ", EntityPhrase(f"the {name}", mentions), there_are]
        words += [*_list_of([_group(scene, group) for group in here]), "."]
    return _caption([*words, *_relations(scene, rng)])


def short_captions(scene: Scene, rng: np.random.Generator) -> tuple[SceneCaption, SceneCaption]:
    """Two of one sentence: what stands out most, and what kind of place it is."""
    order = sorted(range(len(scene.objects)), key=lambda i: -int(scene.object_mask(i).sum()))
    return _main_thing(scene, order, rng), _overview(scene, order)


def object_description(scene: Scene, number: int) -> str:
    """A thing by itself, for whoever sees its box."""
    thing = scene.objects[number]
    text = "".join(word if isinstance(word, str) else word.text for word in _one(scene, number))
    if thing.ground_index == NO_INDEX:
        return text
    ground = scene.stuff[thing.ground_index]
    return f"{text} {preposition(ground)} the {ground}"


def _alike(scene: Scene) -> Iterator[tuple[int, ...]]:
    """Things that one phrase can name, from left to right; what carries something stands alone."""
    carrying = {thing.base_index for thing in scene.objects}
    groups: dict[object, list[int]] = {}
    order = sorted(range(len(scene.objects)), key=lambda i: scene.objects[i].x)
    for i in order:
        thing = scene.objects[i]
        if thing.base_index != NO_INDEX:
            continue  # it is named with what it stands on
        alone = i if i in carrying or thing.part else NO_INDEX
        groups.setdefault((appearance_query(thing), thing.ground_index, alone), []).append(i)
    yield from map(tuple, groups.values())


def _group(scene: Scene, group: tuple[int, ...]) -> CaptionPieces:
    """One thing with all that belongs to it, or several that look alike."""
    first, *others = group
    if others:
        look = appearance_query(scene.objects[first], plural=True)
        mentions = tuple(SceneEntity("thing", i) for i in group)
        return [EntityPhrase(f"{number_word(len(group))} {look.text}", mentions)]
    words = _one(scene, first)
    for i, thing in enumerate(scene.objects):
        if thing.base_index == first:
            words = [*_one(scene, i), " standing on ", *words]
    return words


def _one(scene: Scene, number: int) -> CaptionPieces:
    thing = scene.objects[number]
    words: CaptionPieces = [EntityPhrase(with_article(appearance_query(thing).text), (SceneEntity("thing", number),))]
    if thing.part is not None:
        part = with_article(f"{thing.part.colour} {thing.part.name}")
        words += [" with ", EntityPhrase(part, (SceneEntity("part", number),))]
    return words


def _list_of(items: list[CaptionPieces]) -> CaptionPieces:
    """a, b and c."""
    words = list(items[0])
    for i, item in enumerate(items[1:], 1):
        words += [" and " if i + 1 == len(items) else ", ", *item]
    return words


def _relations(scene: Scene, rng: np.random.Generator) -> CaptionPieces:
    """Who is where, each thing at most once, by an expression that means it alone."""
    free = [i for i in range(len(scene.objects)) if scene.objects[i].base_index == NO_INDEX]
    names = {i: name.text for i in free if (name := simple_expression(scene, i)) is not None}
    pairs = [(a, b) for a in names for b in names if a != b]
    words: CaptionPieces = []
    for relation in [*CLOSE_RELATIONS, *rng.permutation(tuple(DIRECTIONS))]:
        for k in rng.permutation(len(pairs)):
            a, b = pairs[int(k)]
            if a in names and b in names and is_related(scene, str(relation), a, b, certain=True):
                first = EntityPhrase(f"The {names.pop(a)}", (SceneEntity("thing", a),))
                second = EntityPhrase(f"the {names.pop(b)}", (SceneEntity("thing", b),))
                words += [" ", first, f" is {relation} ", second, "."]
                if len(words) >= 5 * MAX_RELATIONS:
                    return words
    return words


def _main_thing(scene: Scene, order: list[int], rng: np.random.Generator) -> SceneCaption:
    """The largest thing, and a neighbour."""
    main = order[0]
    name = EntityPhrase(with_article(_plain(scene.objects[main])), (SceneEntity("thing", main),))
    related = [
        (relation, i)
        for i in order[1:]
        for relation in RELATIONS
        if is_related(scene, relation, main, i, certain=True)
        and scene.objects[i].kind != scene.objects[main].kind
    ]
    if not related or scene.world.text_style == "plain":
        return _caption([_capital(name), " can be seen."])
    relation, other = related[int(rng.integers(len(related)))]
    second = EntityPhrase(with_article(_plain(scene.objects[other])), (SceneEntity("thing", other),))
    return _caption([_capital(name), f" is {relation} ", second, "."])


def _overview(scene: Scene, order: list[int]) -> SceneCaption:
    """The place, and what is in it."""
    seen: dict[str, list[int]] = {}
    for i in order:
        seen.setdefault(_plain(scene.objects[i]), []).append(i)
    items: list[CaptionPieces] = []
    for name, group in seen.items():
        alike = tuple(SceneEntity("thing", i) for i in group)
        look = appearance_query(scene.objects[group[0]], plural=True)
        several = f"{number_word(len(group))} {look.colour} {look.text.split()[-1]}"
        items.append([EntityPhrase(with_article(name) if len(group) == 1 else several, alike)])
    place = place_description(scene)
    return _caption([f"{place[0].upper()}{place[1:]} with ", *_list_of(items), "."])


def _plain(thing: SceneObject) -> str:
    return f"{thing.colour} {thing.shape}"


def _capital(phrase: EntityPhrase) -> EntityPhrase:
    return EntityPhrase(phrase.text[0].upper() + phrase.text[1:], phrase.entities)


def _caption(words: CaptionPieces) -> SceneCaption:
    """Put together; phrases get their places, and what was named before is "another" one."""
    text, spoken = "", []
    said: Counter[str] = Counter()
    for word in words:
        if isinstance(word, str):
            text += word
            continue
        start = len(text)
        text += _again(word.text, said[word.text])
        said[word.text] += 1
        spoken.append(PhraseSpan(start, len(text), word.entities))
    return SceneCaption(text, tuple(spoken))


def _again(phrase: str, times: int) -> str:
    """A phrase that was said so many times before, so that it differs."""
    first, _, noun = phrase.partition(" ")
    if not times or first not in ("a", "an"):
        return phrase
    return f"another {noun}" if times == 1 else f"one more {noun}"
