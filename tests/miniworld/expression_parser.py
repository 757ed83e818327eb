"""An independent interpreter of referring expressions: from the text alone, by plain definitions.

It shares no code with the module that generates expressions, so an error has to occur in both to
stay undetected.
"""

from __future__ import annotations

import re

from glamm_jax.miniworld import Scene
from glamm_jax.miniworld.layout import SceneObject
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.world import COLOURS, TEXTURES

PLURALS = {shape + ("es" if shape.endswith("s") else "s"): shape for shape in (*SHAPES, "thing")}
EXTREMES = {
    "leftmost": lambda item: item.x,
    "rightmost": lambda item: -item.x,
    "topmost": lambda item: item.y,
    "lowest": lambda item: -item.y,
}
RELATIONS = re.compile(
    r"^(?P<head>.*?) "
    r"(?P<relation>left of|right of|above|below|behind|in front of|standing on|in|on) "
    r"the (?P<tail>.*)$"
)


def matching_objects(scene: Scene, text: str) -> set[int]:
    """Return the indices of all objects that the text could refer to."""
    match = RELATIONS.match(text)
    head, relation, tail = match.group("head", "relation", "tail") if match else (text, "", "")
    *words, noun = head.split()
    noun = PLURALS.get(noun, noun)
    extreme = words.pop(0) if words and words[0] in EXTREMES else ""
    matches = {i for i, item in enumerate(scene.objects) if _fits(item, words, noun)}
    if relation in ("in", "on"):
        matches = {i for i in matches if scene.stuff[scene.objects[i].ground_index] == tail}
        matches = {i for i in matches if scene.objects[i].ground_index >= 0}
    elif relation:
        others = matching_objects(scene, tail)
        matches = {i for i in matches if any(_related(scene, relation, i, j) for j in others - {i})}
    if extreme and matches:
        key = EXTREMES[extreme]
        matches = {min(matches, key=lambda i: key(scene.objects[i]))}
    return matches


def _fits(item: SceneObject, words: list[str], noun: str) -> bool:
    for word in words:
        if word in COLOURS:
            fits = item.colour == word
        elif word in TEXTURES:
            fits = item.texture == word
        else:
            assert word in ("small", "large"), word
            fits = item.size == word
        if not fits:
            return False
    assert noun == "thing" or noun in SHAPES, noun
    return noun in ("thing", item.shape)


def _related(scene: Scene, relation: str, i: int, j: int) -> bool:
    first, second = scene.objects[i], scene.objects[j]
    if relation in ("in front of", "behind"):
        front, back = (i, j) if relation == "in front of" else (j, i)
        return scene.covered_pixels(front, back) > 0
    return {
        "left of": first.x < second.x,
        "right of": first.x > second.x,
        "above": first.y < second.y,
        "below": first.y > second.y,
        "standing on": first.base_index == j,
    }[relation]
