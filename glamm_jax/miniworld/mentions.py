"""Objects that a text mentions in the words of the mini-world, and which objects they can be.

    (mention,) = find_mentions("In a meadow, there are two large red stars.")
    mention.start, mention.end      # the span of "two large red stars"
    mention.number                  # 2
    mention.colour, mention.shape   # "red", "star"

It finds what `captions` and the oracles of the annotation write, and invented objects of the same
words; places, stuff and parts are no objects.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from glamm_jax.miniworld.captions import NUMBERS, with_article
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.world import COLOURS, TEXTURES

SIZES = ("small", "large")
POSITIONS = ("leftmost", "central", "rightmost")  # of objects that look alike
DETERMINERS = ("a", "an", "the", "another", "one more")


@dataclass(frozen=True, slots=True)
class Appearance:
    """What a mention can state about an object.

    Attributes:
        shape: key of SHAPES; its label.
        colour: key of COLOURS.
        texture: name in TEXTURES.
        size: name in SIZES or "".
        position: name in POSITIONS among objects that texts without a texture could confuse; "" if
            there are none.
    """

    shape: str
    colour: str
    texture: str
    size: str
    position: str

    @property
    def description(self) -> str:
        """Words that no other object of the scene fits, such as "a large striped red star"."""
        texture = "" if self.texture == "plain" else self.texture
        words = [self.position, self.size, texture, self.colour, self.shape]
        text = " ".join(word for word in words if word)
        return f"the {text}" if self.position else with_article(text)


class Mention(NamedTuple):
    """A part of a text that names one object or several; "" is not stated.

    Attributes:
        start: its first character.
        content: its first character behind the determiner.
        end: the character behind the last one.
        number: of objects; None for a plural without number: all that match.
        shape: key of SHAPES.
        colour: key of COLOURS.
        texture: name in TEXTURES, but "plain".
        size: name in SIZES.
        position: name in POSITIONS.
    """

    start: int
    content: int
    end: int
    number: int | None
    shape: str
    colour: str = ""
    texture: str = ""
    size: str = ""
    position: str = ""

    def fits(self, item: Appearance) -> bool:
        """Whether the object has all properties that are stated."""
        return (
            item.shape == self.shape
            and self.colour in ("", item.colour)
            and self.texture in ("", item.texture)
            and self.size in ("", item.size)
            and self.position in ("", item.position)
        )


def _alternatives(words: tuple[str, ...]) -> str:
    return "|".join(re.escape(word) for word in words)


_NUMBER_OF_WORD = {word: number for number, word in enumerate(NUMBERS)}
_PATTERN = re.compile(
    rf"(?<![\w-])(?:(?:(?P<determiner>{_alternatives(DETERMINERS[::-1])})\s+)"
    rf"|(?P<number>{_alternatives(NUMBERS)}|\d{{1,4}})\s+)?"
    rf"(?:(?P<position>{_alternatives(POSITIONS)})\s+)?"
    rf"(?:(?P<size>{_alternatives(SIZES)})\s+)?"
    rf"(?:(?P<texture>{_alternatives(TEXTURES[1:])})\s+)?"
    rf"(?:(?P<colour>{_alternatives(tuple(COLOURS))})\s+)?"
    rf"(?P<shape>{_alternatives(tuple(SHAPES))})(?P<plural>e?s)?(?![\w-])",
    re.IGNORECASE,
)


@lru_cache(maxsize=512)
def find_mentions(text: str) -> tuple[Mention, ...]:
    """Return the mentions of objects in the order of the text."""
    mentions = []
    for match in _PATTERN.finditer(text):
        determiner, number, position, size, texture, colour, shape, plural = match.groups()
        word = (number or "").lower()
        count = _NUMBER_OF_WORD.get(word) if word else (None if plural else 1)
        if count is None and word:
            count = int(word)
        content = match.end("determiner") if determiner else match.start()
        while text[content].isspace():
            content += 1
        mentions.append(
            Mention(
                match.start(),
                content,
                match.end(),
                count,
                shape.lower(),
                (colour or "").lower(),
                (texture or "").lower(),
                (size or "").lower(),
                (position or "").lower(),
            )
        )
    return tuple(mentions)


@lru_cache(maxsize=4096)
def head_mention(phrase: str) -> Mention | None:
    """Return the mention that a phrase begins with; None if it begins with something else."""
    match = _PATTERN.match(phrase)
    return find_mentions(phrase[: match.end()])[0] if match else None
