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
    full_look,
    holds,
    preposition,
    simple_expression,
)
from glamm_jax.miniworld.layout import NOWHERE, Thing
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.world import MAX_RELATIONS

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
CLOSE_RELATIONS = tuple(name for name in RELATIONS if name not in DIRECTIONS)
Sort = Literal["stuff", "thing", "part"]


class Mention(NamedTuple):
    """Something in a scene: stuff, a thing or a thing's part, with its number."""

    sort: Sort
    number: int


class Phrase(NamedTuple):
    """Words, and all that they speak of."""

    text: str
    mentions: tuple[Mention, ...]


class Spoken(NamedTuple):
    """A phrase and its place in a text."""

    start: int
    end: int
    mentions: tuple[Mention, ...]


class Caption(NamedTuple):
    """A text and its phrases, in the order of the text."""

    text: str
    phrases: tuple[Spoken, ...]


Words = list[str | Phrase]


def article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def in_words(number: int) -> str:
    """A small number as a word."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def place_name(scene: Scene) -> str:
    """Where it is: "a meadow at night"."""
    hour = {"day": "", "evening": " in the evening", "night": " at night"}[scene.plan.daytime]
    return article(scene.plan.place) + hour


def dense_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Everything: all things with their parts, and in rich words, where they are."""
    groups = list(_alike(scene))
    if scene.world.words == "plain":
        listed = _list_of([_group(scene, group) for group in groups])
        return _caption(["The picture shows ", *listed, "."])
    words: Words = []
    for area, name in enumerate(scene.stuff):
        here = [group for group in groups if scene.things[group[0]].area == area]
        mentions = (Mention("stuff", area),)
        words.append(" " if words else "")
        if not here:
            words += [Phrase(f"The {name}", mentions), " is empty."]
            continue
        there_are = " there are " if sum(map(len, here)) > 1 else " there is "
        words += [f"{preposition(name).capitalize()} ", Phrase(f"the {name}", mentions), there_are]
        words += [*_list_of([_group(scene, group) for group in here]), "."]
    return _caption([*words, *_relations(scene, rng)])


def short_captions(scene: Scene, rng: np.random.Generator) -> tuple[Caption, Caption]:
    """Two of one sentence: what stands out most, and what kind of place it is."""
    order = sorted(range(len(scene.things)), key=lambda i: -int(scene.thing_mask(i).sum()))
    return _main_thing(scene, order, rng), _overview(scene, order)


def description(scene: Scene, number: int) -> str:
    """A thing by itself, for whoever sees its box."""
    thing = scene.things[number]
    text = "".join(word if isinstance(word, str) else word.text for word in _one(scene, number))
    if thing.area == NOWHERE:
        return text
    ground = scene.stuff[thing.area]
    return f"{text} {preposition(ground)} the {ground}"


def _alike(scene: Scene) -> Iterator[tuple[int, ...]]:
    """Things that one phrase can name, from left to right; what carries something stands alone."""
    carrying = {thing.base for thing in scene.things}
    groups: dict[object, list[int]] = {}
    order = sorted(range(len(scene.things)), key=lambda i: scene.things[i].x)
    for i in order:
        thing = scene.things[i]
        if thing.base != NOWHERE:
            continue  # it is named with what it stands on
        alone = i if i in carrying or thing.part else NOWHERE
        groups.setdefault((full_look(thing), thing.area, alone), []).append(i)
    yield from map(tuple, groups.values())


def _group(scene: Scene, group: tuple[int, ...]) -> Words:
    """One thing with all that belongs to it, or several that look alike."""
    first, *others = group
    if others:
        look = full_look(scene.things[first], plural=True)
        mentions = tuple(Mention("thing", i) for i in group)
        return [Phrase(f"{in_words(len(group))} {look.text}", mentions)]
    words = _one(scene, first)
    for i, thing in enumerate(scene.things):
        if thing.base == first:
            words = [*_one(scene, i), " standing on ", *words]
    return words


def _one(scene: Scene, number: int) -> Words:
    thing = scene.things[number]
    words: Words = [Phrase(article(full_look(thing).text), (Mention("thing", number),))]
    if thing.part is not None:
        part = article(f"{thing.part.colour} {thing.part.name}")
        words += [" with ", Phrase(part, (Mention("part", number),))]
    return words


def _list_of(items: list[Words]) -> Words:
    """a, b and c."""
    words = list(items[0])
    for i, item in enumerate(items[1:], 1):
        words += [" and " if i + 1 == len(items) else ", ", *item]
    return words


def _relations(scene: Scene, rng: np.random.Generator) -> Words:
    """Who is where, each thing at most once, by an expression that means it alone."""
    free = [i for i in range(len(scene.things)) if scene.things[i].base == NOWHERE]
    names = {i: name.text for i in free if (name := simple_expression(scene, i)) is not None}
    pairs = [(a, b) for a in names for b in names if a != b]
    words: Words = []
    for relation in [*CLOSE_RELATIONS, *rng.permutation(tuple(DIRECTIONS))]:
        for k in rng.permutation(len(pairs)):
            a, b = pairs[int(k)]
            if a in names and b in names and holds(scene, str(relation), a, b, certain=True):
                first = Phrase(f"The {names.pop(a)}", (Mention("thing", a),))
                second = Phrase(f"the {names.pop(b)}", (Mention("thing", b),))
                words += [" ", first, f" is {relation} ", second, "."]
                if len(words) >= 5 * MAX_RELATIONS:
                    return words
    return words


def _main_thing(scene: Scene, order: list[int], rng: np.random.Generator) -> Caption:
    """The largest thing, and a neighbour."""
    main = order[0]
    name = Phrase(article(_plain(scene.things[main])), (Mention("thing", main),))
    related = [
        (relation, i)
        for i in order[1:]
        for relation in RELATIONS
        if holds(scene, relation, main, i, certain=True)
        and scene.things[i].kind != scene.things[main].kind
    ]
    if not related or scene.world.words == "plain":
        return _caption([_capital(name), " can be seen."])
    relation, other = related[int(rng.integers(len(related)))]
    second = Phrase(article(_plain(scene.things[other])), (Mention("thing", other),))
    return _caption([_capital(name), f" is {relation} ", second, "."])


def _overview(scene: Scene, order: list[int]) -> Caption:
    """The place, and what is in it."""
    seen: dict[str, list[int]] = {}
    for i in order:
        seen.setdefault(_plain(scene.things[i]), []).append(i)
    items: list[Words] = []
    for name, group in seen.items():
        alike = tuple(Mention("thing", i) for i in group)
        look = full_look(scene.things[group[0]], plural=True)
        several = f"{in_words(len(group))} {look.colour} {look.text.split()[-1]}"
        items.append([Phrase(article(name) if len(group) == 1 else several, alike)])
    place = place_name(scene)
    return _caption([f"{place[0].upper()}{place[1:]} with ", *_list_of(items), "."])


def _plain(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def _capital(phrase: Phrase) -> Phrase:
    return Phrase(phrase.text[0].upper() + phrase.text[1:], phrase.mentions)


def _caption(words: Words) -> Caption:
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
        spoken.append(Spoken(start, len(text), word.mentions))
    return Caption(text, tuple(spoken))


def _again(phrase: str, times: int) -> str:
    """A phrase that was said so many times before, so that it differs."""
    first, _, noun = phrase.partition(" ")
    if not times or first not in ("a", "an"):
        return phrase
    return f"another {noun}" if times == 1 else f"one more {noun}"
