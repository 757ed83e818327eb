"""Options of a mini-world: which objects and places occur and how they are combined.

EASY                    two or three large objects with plain names; a tiny model learns it
FULL                    all features: textures, parts, sizes, stacks, overlaps, times of day
extended(FULL)          FULL with one more shape and one more place that no base world has
train, test = hold_out(FULL, (("red", "star"),))    red stars in no scene of `train`, in every
                                                    scene of `test`
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
MAX_OBJECTS = 12  # upper limit of World.num_objects
MAX_RELATIONS = 2  # sentences of a dense caption that relate two objects
DAYTIMES = ("day", "evening", "night")


class PlaceSpec(NamedTuple):
    """What a place consists of.

    Attributes:
        stuff: names of its stuff, from top to bottom.
        landmark: category and fine category of the place in GranD's terms.
    """

    stuff: tuple[str, ...]
    landmark: tuple[str, str]


OUTDOOR = "Outdoor scene"
PLACES: dict[str, PlaceSpec] = {
    "meadow": PlaceSpec(("sky", "grass"), (OUTDOOR, "Natural landscape")),
    "sea": PlaceSpec(("sky", "water"), (OUTDOOR, "Natural landscape")),
    "desert": PlaceSpec(("sky", "sand"), (OUTDOOR, "Natural landscape")),
    "beach": PlaceSpec(("sky", "water", "sand"), (OUTDOOR, "Natural landscape")),
    "lake": PlaceSpec(("sky", "grass", "water"), (OUTDOOR, "Rural landscape")),
    "park": PlaceSpec(
        ("sky", "grass", "road"), ("Sports and recreation scene", "Recreational area")
    ),
    "street": PlaceSpec(("sky", "wall", "road"), ("Transportation scene", "Road")),
    "yard": PlaceSpec(("wall", "grass"), (OUTDOOR, "Urban landscape")),
    "room": PlaceSpec(("wall", "floor"), ("Indoor scene", "Living space")),
    "glacier": PlaceSpec(("sky", "snow"), (OUTDOOR, "Natural landscape")),
}
NEW_SHAPE, NEW_PLACE = "moon", "glacier"
HANGING = ("sky", "wall")  # stuff that objects float in or hang on; on all other stuff they stand


@dataclass(frozen=True)
class World:
    """Options of a mini-world. Lengths are fractions of the image width, chances are in [0, 1].

    Attributes:
        shapes: keys of SHAPES.
        colours: keys of COLOURS.
        places: keys of PLACES.
        num_objects: minimum and maximum number of objects of a scene.
        radii: minimum and maximum radius of the circle around an object.
        sizes: objects are either small or large, with a gap in between, and texts name the size.
        textures: names in TEXTURES; half of the objects have the first, the others any of them.
        daytimes: names in DAYTIMES; a name that occurs twice is twice as likely.
        min_spacing: minimum distance of two centres, as a factor of the sum of their radii; below
            1 nearer objects may cover farther ones.
        min_visible: minimum visible share of an object's pixels.
        standing: objects stand on the ground or hang; False: objects are placed anywhere.
        hanging: chance that an object floats in the sky or hangs on a wall.
        repeats: chance that an object repeats the kind of an earlier one.
        distractors: chance that an object shares exactly its colour or its shape with an earlier
            one.
        parts: chance that an object has a part.
        stacks: chance that an object stands on another one.
        withheld: kinds that occur neither in images nor in texts.
        featured: kinds of which every scene contains one.
        text_style: "plain" names objects by colour and shape; "rich" describes everything visible.
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
        for name, choices in (
            ("shapes", SHAPES),
            ("colours", COLOURS),
            ("places", PLACES),
            ("textures", TEXTURES),
            ("daytimes", DAYTIMES),
        ):
            selected = getattr(self, name)
            valid = bool(selected) and set(selected) <= set(choices)
            require(valid, self, name, f"choose some of {', '.join(choices)}")
        low, high = self.num_objects
        require(
            1 <= low <= high <= MAX_OBJECTS, self, "num_objects", f"between 1 and {MAX_OBJECTS}"
        )
        require(0 < self.radii[0] <= self.radii[1] < 0.3, self, "radii", "between 0 and 0.3")
        require(self.min_spacing > 0.5, self, "min_spacing", "must be above 0.5")
        for name in ("min_visible", "hanging", "repeats", "distractors", "parts", "stacks"):
            require(0 <= getattr(self, name) <= 1, self, name, "must be in 0 to 1")
        all_kinds = set(self._all_kinds)
        for name in ("withheld", "featured"):
            message = "a kind is a colour and a shape of this world"
            require(set(getattr(self, name)) <= all_kinds, self, name, message)
        require(not set(self.featured) & set(self.withheld), self, "featured", "some are withheld")
        require(len(self.kinds) > 2 * high, self, "withheld", "too few kinds are left")
        require_choice(self, "text_style", TextStyle)

    @property
    def kinds(self) -> tuple[ObjectKind, ...]:
        """All kinds that may occur: the combinations of colours and shapes, without `withheld`."""
        return tuple(kind for kind in self._all_kinds if kind not in self.withheld)

    @property
    def _all_kinds(self) -> list[ObjectKind]:
        return [(colour, shape) for shape in self.shapes for colour in self.colours]


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
    """Return the world with the shape NEW_SHAPE and the place NEW_PLACE added."""
    shapes, places = (*world.shapes, NEW_SHAPE), (*world.places, NEW_PLACE)
    return replace(world, shapes=shapes, places=places)


def hold_out(world: World, kinds: tuple[ObjectKind, ...]) -> tuple[World, World]:
    """Return a training world without these kinds and a test world with one of them in every scene.

    Raises:
        ConfigError: a kind is not a colour and a shape of the world, or too few kinds are left.
    """
    return replace(world, withheld=kinds), replace(world, featured=kinds)


# Kinds that occur in no image and no text of EASY_SEEN.
UNSEEN_KINDS: tuple[ObjectKind, ...] = (
    ("red", "star"),
    ("blue", "triangle"),
)
EASY_SEEN, EASY_UNSEEN = hold_out(EASY, UNSEEN_KINDS)
# Other colours, each combined with every shape: no colour excludes a shape here.
EASY_PALE = replace(EASY, colours=tuple(COLOURS)[6:])
# Every object after the first shares its colour or its shape with an earlier one, so that neither
# alone tells them apart.
EASY_SIMILAR = replace(EASY_SEEN, distractors=1.0)
EASY_PALE_SIMILAR = replace(EASY_PALE, distractors=1.0)
# For adapting a model trained on EASY: every scene has the new shape, some the new place.
EASY_NEW = replace(extended(EASY), featured=tuple((c, NEW_SHAPE) for c in EASY.colours))

WORLDS: dict[str, World] = {
    "easy": EASY,
    "full": FULL,
    "easy-extended": extended(EASY),
    "full-extended": extended(FULL),
    "easy-new": EASY_NEW,
    "easy-pale": EASY_PALE,
    "easy-pale-similar": EASY_PALE_SIMILAR,
    "easy-similar": EASY_SIMILAR,
    "easy-seen": EASY_SEEN,
    "easy-unseen": EASY_UNSEEN,
    "easy-seen-extended": extended(EASY_SEEN),
}
