"""What a mini-world is made of: kinds of things, places, and how freely they are mixed.

EASY                    a few large things with plain names: a tiny model learns it
FULL                    everything: textures, parts, sizes, heaps, nights
extended(FULL)          with a shape and a ground that no other world has
train, test = held_out(FULL, (("red", "star"),))    red stars: never, and in every scene
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from glamm_jax.config.checks import require, require_choice
from glamm_jax.miniworld.shapes import SHAPES

ObjectKind = tuple[str, str]  # colour, shape
TextStyle = Literal["plain", "rich"]
Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (214, 44, 46),
    "orange": (243, 134, 24),
    "yellow": (252, 214, 44),
    "green": (38, 158, 66),
    "blue": (36, 92, 216),
    "purple": (140, 66, 192),
    "pink": (247, 136, 186),
    "white": (244, 244, 244),
    "grey": (128, 130, 134),
    "brown": (122, 76, 38),
    "black": (34, 34, 38),
    "cyan": (66, 204, 222),
}
TEXTURES = ("plain", "striped", "dotted", "checked")
PARTS = ("band", "cap")
MAX_OBJECTS = 12  # in any world
MAX_RELATIONS = 2  # sentences of a caption about who is where
DAYTIMES = ("day", "evening", "night")


class PlaceSpec(NamedTuple):
    """Stuff from top to bottom, and what the pipeline of GranD would call the place."""

    stuff: tuple[str, ...]
    landmark: tuple[str, str]  # category, fine category


OUTDOOR = "Outdoor scene"
PLACES: dict[str, PlaceSpec] = {
    "meadow": PlaceSpec(("sky", "grass"), (OUTDOOR, "Natural landscape")),
    "sea": PlaceSpec(("sky", "water"), (OUTDOOR, "Natural landscape")),
    "desert": PlaceSpec(("sky", "sand"), (OUTDOOR, "Natural landscape")),
    "beach": PlaceSpec(("sky", "water", "sand"), (OUTDOOR, "Natural landscape")),
    "lake": PlaceSpec(("sky", "grass", "water"), (OUTDOOR, "Rural landscape")),
    "park": PlaceSpec(("sky", "grass", "road"), ("Sports and recreation scene", "Recreational area")),
    "street": PlaceSpec(("sky", "wall", "road"), ("Transportation scene", "Road")),
    "yard": PlaceSpec(("wall", "grass"), (OUTDOOR, "Urban landscape")),
    "room": PlaceSpec(("wall", "floor"), ("Indoor scene", "Living space")),
    "glacier": PlaceSpec(("sky", "snow"), (OUTDOOR, "Natural landscape")),
}
NEW_SHAPE, NEW_PLACE = "moon", "glacier"
HANGING = ("sky", "wall")  # stuff that things float in or hang on; on everything else they stand


@dataclass(frozen=True)
class World:
    """Options of a mini-world. Lengths are in widths of the picture, chances in [0, 1].

    num_things: least and most. radii: of the circle around a thing.
    sizes: things are small or large, with nothing between, and are called so.
    closeness: least distance of two centres in sums of their radii; below 1 near ones cover far
        ones. min_visible: least share of a thing that is not covered.
    hanging: chance to be up in the sky or on a wall. standing: False lets things be anywhere.
    repeats: chance that a thing is of the same kind as one before. distractors: that it shares
        its colour or its shape with one. parts: that it has one. stacks: that it stands on one.
    withheld: kinds that do not occur, in pictures or texts. featured: kinds of which every scene
        has one.
    daytimes: one that is named twice is twice as likely.
    words: "plain" names things by colour and shape, "rich" says all that is seen.
    """

    shapes: tuple[str, ...]
    colours: tuple[str, ...]
    places: tuple[str, ...]
    num_objects: tuple[int, int] = (2, 3)
    radii: tuple[float, float] = (0.14, 0.22)
    sizes: bool = False
    textures: tuple[str, ...] = ("plain",)
    daytimes: tuple[str, ...] = ("day",)
    min_spacing: float = 1.05
    min_visible: float = 0.4
    standing: bool = False
    hanging: float = 0.0
    repeats: float = 0.0
    distractors: float = 0.5
    parts: float = 0.0
    stacks: float = 0.0
    withheld: tuple[ObjectKind, ...] = ()
    featured: tuple[ObjectKind, ...] = ()
    text_style: TextStyle = "plain"

    def __post_init__(self) -> None:
        for name, known in (
            ("shapes", SHAPES),
            ("colours", COLOURS),
            ("places", PLACES),
            ("textures", TEXTURES),
            ("daytimes", DAYTIMES),
        ):
            chosen = getattr(self, name)
            fits = bool(chosen) and set(chosen) <= set(known)
            require(fits, self, name, f"choose some of {', '.join(known)}")
        low, high = self.num_objects
        require(1 <= low <= high <= MAX_OBJECTS, self, "num_things", f"between 1 and {MAX_OBJECTS}")
        require(0 < self.radii[0] <= self.radii[1] < 0.3, self, "radii", "between 0 and 0.3")
        require(self.min_spacing > 0.5, self, "closeness", "must be above 0.5")
        for name in ("min_visible", "hanging", "repeats", "distractors", "parts", "stacks"):
            require(0 <= getattr(self, name) <= 1, self, name, "must be in 0 to 1")
        every = set(self._all_kinds)
        for name in ("withheld", "featured"):
            message = "a kind is a colour and a shape of this world"
            require(set(getattr(self, name)) <= every, self, name, message)
        require(not set(self.featured) & set(self.withheld), self, "featured", "some are withheld")
        require(len(self.kinds) > 2 * high, self, "withheld", "too few kinds are left")
        require_choice(self, "words", TextStyle)

    @property
    def kinds(self) -> tuple[ObjectKind, ...]:
        """All kinds that may occur."""
        return tuple(kind for kind in self._all_kinds if kind not in self.withheld)

    @property
    def _all_kinds(self) -> list[ObjectKind]:
        return [(colour, shape) for shape in self.shapes for colour in self.colours]

    @property
    def max_masks(self) -> int:
        """The most that a grounded caption can need: of things and their parts, and with rich
        words of stuff and of the things that stand in a relation."""
        things = self.num_objects[1] * (2 if self.parts else 1)
        stuff = max(len(PLACES[place].stuff) for place in self.places)
        return things + (stuff + 2 * MAX_RELATIONS) * (self.text_style == "rich")


BASE_SHAPES = tuple(shape for shape in SHAPES if shape != NEW_SHAPE)
BASE_PLACES = tuple(place for place in PLACES if place != NEW_PLACE)

EASY = World(BASE_SHAPES[:4], tuple(COLOURS)[:6], ("meadow", "sea", "desert"))
FULL = World(
    shapes=BASE_SHAPES,
    colours=tuple(COLOURS)[:8],
    places=BASE_PLACES,
    num_objects=(3, 6),
    radii=(0.07, 0.15),
    sizes=True,
    textures=TEXTURES,
    daytimes=("day", "day", "evening", "night"),
    min_spacing=0.72,
    standing=True,
    hanging=0.3,
    repeats=0.25,
    parts=0.25,
    stacks=0.25,
    text_style="rich",
)


def extended(world: World) -> World:
    """The world with one more shape and one more place, which no preset has."""
    shapes, places = (*world.shapes, NEW_SHAPE), (*world.places, NEW_PLACE)
    return replace(world, shapes=shapes, places=places)


def hold_out(world: World, kinds: tuple[ObjectKind, ...]) -> tuple[World, World]:
    """A world for training, without these kinds, and one for tests, with one in every scene."""
    return replace(world, withheld=kinds), replace(world, featured=kinds)


# What whoever learns from EASY_SEEN never sees, in pictures or texts.
UNSEEN_KINDS: tuple[ObjectKind, ...] = (
    ("red", "star"),
    ("blue", "triangle"),
)
EASY_SEEN, EASY_UNSEEN = hold_out(EASY, UNSEEN_KINDS)
# Other colours, on every shape: here nothing says that some colour excludes a shape.
EASY_PALE = replace(EASY, colours=tuple(COLOURS)[6:])
# What whoever knows EASY has yet to learn: every scene has the new shape, some the new ground.
EASY_NEW = replace(extended(EASY), featured=tuple((c, NEW_SHAPE) for c in EASY.colours))

WORLDS: dict[str, World] = {
    "easy": EASY,
    "full": FULL,
    "easy-extended": extended(EASY),
    "full-extended": extended(FULL),
    "easy-new": EASY_NEW,
    "easy-pale": EASY_PALE,
    "easy-seen": EASY_SEEN,
    "easy-unseen": EASY_UNSEEN,
    "easy-seen-extended": extended(EASY_SEEN),
}
