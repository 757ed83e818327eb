"""A second reading of the mini-world's words: from the text alone, by plain definitions.

It shares no code with the module that writes expressions, so that both must be wrong to agree.
"""

from __future__ import annotations

import re

from glamm_jax.miniworld import Scene
from glamm_jax.miniworld.layout import SceneObject
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.world import COLOURS, TEXTURES

PLURALS = {shape + ("es" if shape.endswith("s") else "s"): shape for shape in (*SHAPES, "thing")}
EXTREMES = {
    "leftmost": lambda thing: thing.x,
    "rightmost": lambda thing: -thing.x,
    "topmost": lambda thing: thing.y,
    "lowest": lambda thing: -thing.y,
}
LINKS = re.compile(
    r"^(?P<head>.*?) "
    r"(?P<link>left of|right of|above|below|behind|in front of|standing on|in|on) the (?P<tail>.*)$"
)


def things_meant(scene: Scene, text: str) -> set[int]:
    """Every thing of the scene that the text could mean."""
    match = LINKS.match(text)
    head, link, tail = match.group("head", "link", "tail") if match else (text, "", "")
    *words, noun = head.split()
    noun = PLURALS.get(noun, noun)
    extreme = words.pop(0) if words and words[0] in EXTREMES else ""
    found = {i for i, thing in enumerate(scene.objects) if _fits(thing, words, noun)}
    if link in ("in", "on"):
        found = {i for i in found if scene.stuff[scene.objects[i].ground_index] == tail}
        found = {i for i in found if scene.objects[i].ground_index >= 0}
    elif link:
        others = things_meant(scene, tail)
        found = {i for i in found if any(_related(scene, link, i, j) for j in others - {i})}
    if extreme and found:
        key = EXTREMES[extreme]
        found = {min(found, key=lambda i: key(scene.objects[i]))}
    return found


def _fits(thing: SceneObject, words: list[str], noun: str) -> bool:
    for word in words:
        if word in COLOURS:
            fits = thing.colour == word
        elif word in TEXTURES:
            fits = thing.texture == word
        else:
            assert word in ("small", "large"), word
            fits = thing.size == word
        if not fits:
            return False
    assert noun == "thing" or noun in SHAPES, noun
    return noun in ("thing", thing.shape)


def _related(scene: Scene, link: str, i: int, j: int) -> bool:
    one, other = scene.objects[i], scene.objects[j]
    if link in ("in front of", "behind"):
        front, back = (i, j) if link == "in front of" else (j, i)
        return scene.covered_pixels(front, back) > 0
    return {
        "left of": one.x < other.x,
        "right of": one.x > other.x,
        "above": one.y < other.y,
        "below": one.y > other.y,
        "standing on": one.base_index == j,
    }[link]
