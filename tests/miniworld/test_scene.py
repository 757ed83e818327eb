"""Scenes follow from seed and id, and their masks are what is seen."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from glamm_jax.config.experiment import MASK_TASKS, ConversationConfig
from glamm_jax.data.conversation_sampler import draw_examples
from glamm_jax.errors import ConfigError
from glamm_jax.miniworld import (
    EASY,
    FULL,
    WORLDS,
    Scene,
    SceneError,
    World,
    extended,
    hold_out,
    scene_record,
    render_scene,
)
from glamm_jax.miniworld.layout import NO_INDEX
from glamm_jax.miniworld.rendering import render_layout
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.world import COLOURS, HANGING, NEW_PLACE, NEW_SHAPE
from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.text.special_tokens import SEG

SIZE = 64
STAR, RING = math.pi / 5, 0.66


def test_a_scene_follows_from_seed_and_id() -> None:
    one, _, again = render_scene(1, 5, SIZE), render_scene(1, 6, SIZE), render_scene(1, 5, SIZE)
    assert one.layout == again.layout
    np.testing.assert_array_equal(one.image, again.image)
    assert scene_record(one) == scene_record(again)
    for other in (render_scene(2, 5, SIZE), render_scene(1, 6, SIZE), render_scene(1, 5, SIZE, EASY)):
        assert not np.array_equal(one.image, other.image)


def test_a_larger_picture_shows_the_same_scene() -> None:
    small, large = render_scene(0, 3, SIZE), render_scene(0, 3, 4 * SIZE)
    assert small.layout == large.layout
    blocks = large.rendering.labels.reshape(SIZE, 4, SIZE, 4)
    same = (blocks == small.rendering.labels[:, None, :, None]).mean()
    assert same > 0.97


def test_every_pixel_belongs_to_one_mask(full_scenes: list[Scene]) -> None:
    for one in full_scenes[:30]:
        masks = [one.stuff_mask(i) for i in range(len(one.stuff))]
        masks += [one.object_mask(i) for i in range(len(one.objects))]
        assert (np.sum(masks, axis=0) == 1).all()


def test_a_mask_is_what_nearer_things_leave_of_its_thing(full_scenes: list[Scene]) -> None:
    covered = 0
    for one in full_scenes[:40]:
        whole = []
        for thing in one.objects:
            plan = replace(one.layout, things=(replace(thing, base=NO_INDEX),))
            alone = render_layout(plan, SIZE, np.random.default_rng(0))
            whole.append(alone.labels == len(one.stuff))
        for i, mask in enumerate(whole):
            nearer = np.any([np.zeros_like(mask), *whole[i + 1 :]], axis=0)
            np.testing.assert_array_equal(one.object_mask(i), mask & ~nearer)
            assert one.rendering.object_areas[i] == mask.sum()
            assert one.object_mask(i).sum() >= FULL.min_visible * mask.sum()
            covered += bool((mask & nearer).any())
    assert covered > 10  # things do cover each other


def test_near_things_are_drawn_over_far_ones(full_scenes: list[Scene]) -> None:
    for one in full_scenes:
        depths = [thing.depth for thing in one.objects]
        assert depths == sorted(depths)
        for thing in one.objects:
            if thing.base_index != NO_INDEX:
                assert one.objects[thing.base_index].base_index == NO_INDEX
                assert thing.bottom < one.objects[thing.base_index].y


def test_a_part_lies_in_its_thing_and_has_its_own_colour(full_scenes: list[Scene]) -> None:
    parts = 0
    for one in full_scenes:
        for i, thing in enumerate(one.objects):
            mask = one.part_mask(i)
            assert mask.any() == (thing.part is not None)
            if thing.part is None or one.layout.daytime != "day" or mask.sum() < 40:
                continue
            assert (one.object_mask(i) | ~mask).all()
            assert _nearest_colour(one.image[mask]) == thing.part.colour
            parts += 1
    assert parts > 5


def test_a_thing_has_its_colour(easy_scenes: list[Scene]) -> None:
    for one in easy_scenes:
        for i, thing in enumerate(one.objects):
            assert _nearest_colour(one.image[one.object_mask(i)]) == thing.colour


def _nearest_colour(pixels: np.ndarray) -> str:
    """By the median, which outlines and highlights do not move."""
    seen = np.median(pixels, axis=0)
    return min(COLOURS, key=lambda colour: float(np.abs(seen - COLOURS[colour]).sum()))


def test_things_stand_on_the_stuff_that_they_are_said_to_stand_on(
    full_scenes: list[Scene],
) -> None:
    for one in full_scenes:
        bounds = [0.0, *(edge.height for edge in one.layout.boundaries), 1.0]
        for thing in one.objects:
            if thing.ground_index == NO_INDEX:
                continue
            hangs = one.stuff[thing.ground_index] in HANGING
            top = thing.y - thing.radius if hangs else thing.bottom
            assert bounds[thing.ground_index] <= top < thing.bottom + 1e-9 <= bounds[thing.ground_index + 1]


def test_small_and_large_things_are_told_apart(full_scenes: list[Scene]) -> None:
    things = [thing for one in full_scenes for thing in one.objects]
    small = max(thing.radius for thing in things if thing.size == "small")
    large = min(thing.radius for thing in things if thing.size == "large")
    assert large - small > 0.02


def test_a_full_world_shows_all_that_it_has(full_scenes: list[Scene]) -> None:
    things = [thing for one in full_scenes for thing in one.objects]
    assert {thing.shape for thing in things} == set(FULL.shapes)
    assert len(FULL.shapes) >= 6
    assert {thing.colour for thing in things} == set(FULL.colours)
    assert {thing.texture for thing in things} == set(FULL.textures)
    assert {one.layout.place for one in full_scenes} == set(FULL.places)
    assert {one.layout.daytime for one in full_scenes} == set(FULL.daytimes)
    assert {name for one in full_scenes for name in one.stuff} >= {
        *("sky", "grass", "water", "road", "floor", "wall"),
    }
    assert any(thing.base_index != NO_INDEX for thing in things)
    kinds = [[thing.kind for thing in one.objects] for one in full_scenes]
    assert any(len(set(kind)) < len(kind) for kind in kinds)


def test_colour_alone_often_does_not_tell(easy_scenes: list[Scene]) -> None:
    shared = [one for one in easy_scenes if len({t.colour for t in one.objects}) < len(one.objects)]
    assert len(shared) > len(easy_scenes) / 4


def test_withheld_kinds_are_neither_shown_nor_named() -> None:
    kinds = (("red", "star"), ("blue", "circle"))
    train, test = hold_out(EASY, kinds)
    for i in range(200):
        one = render_scene(0, i, SIZE, train)
        assert not {thing.kind for thing in one.objects} & set(kinds)
        said = scene_record(one).annotations
        texts = " ".join(" ".join((note.text, *note.turns)) for note in said)
        assert not any(f"{colour} {shape}" in texts for colour, shape in kinds)
    for i in range(50):
        assert {thing.kind for thing in render_scene(0, i, SIZE, test).objects} & set(kinds)


def test_the_new_shape_and_place_are_in_extended_worlds_only(
    full_scenes: list[Scene], easy_scenes: list[Scene]
) -> None:
    for one in (*full_scenes, *easy_scenes):
        assert one.layout.place != NEW_PLACE
        assert all(thing.shape != NEW_SHAPE for thing in one.objects)
    for world in (EASY, FULL):
        new = [render_scene(0, i, SIZE, extended(world)) for i in range(40)]
        assert any(one.layout.place == NEW_PLACE for one in new)
        assert any(thing.shape == NEW_SHAPE for one in new for thing in one.objects)


def test_a_world_without_room_says_so() -> None:
    with pytest.raises(SceneError, match=r"10 to 10 things .* find no room .* 64 x 64 pixels"):
        render_scene(0, 0, SIZE, replace(EASY, num_things=(10, 10), radii=(0.2, 0.22)))
    with pytest.raises(SceneError, match="in 8 x 8 pixels; take fewer"):
        render_scene(0, 0, 8, FULL)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shapes", ("circle", "blob"), r"World.shapes = .*choose some of circle, square"),
        ("colours", (), "World.colours"),
        ("num_things", (3, 2), r"World.num_things = \(3, 2\): between 1 and 12"),
        ("radii", (0.2, 0.4), "World.radii"),
        ("repeats", 1.5, "World.repeats = 1.5: must be in 0 to 1"),
        ("closeness", 0.1, "World.closeness"),
        ("withheld", EASY.kinds[3:], "too few kinds are left"),
        ("withheld", (("red", "blob"),), "a kind is a colour and a shape of this world"),
        ("words", "many", "World.words"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_impossible_worlds_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(EASY, **{field: value})


def test_a_kind_cannot_be_withheld_and_featured() -> None:
    with pytest.raises(ConfigError, match=r"World.featured .*some are withheld"):
        replace(EASY, withheld=(("red", "star"),), featured=(("red", "star"),))


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", math.pi * 0.92**2),
        ("triangle", 0.75 * 3**0.5 * 0.92**2),
        ("star", 5 * 0.46 * math.sin(STAR)),
        ("ring", math.pi * ((RING + 0.28) ** 2 - (RING - 0.28) ** 2)),
        ("cross", 1.8**2 - 4 * 0.58**2),
        ("diamond", 2 * 0.98**2 / 1.3),
    ],
)
def test_a_shape_has_the_area_that_geometry_says(shape: str, area: float) -> None:
    radius = 50.0
    y, x = np.mgrid[:150, :150].astype(np.float32) - 74.5
    inside = SHAPES[shape].distance(x, y, radius) < 0
    assert inside.sum() == pytest.approx(area * radius**2, rel=0.02)
    assert y[inside].max() == pytest.approx(SHAPES[shape].bottom * radius, abs=1.5)


@pytest.mark.parametrize("name", WORLDS)
@pytest.mark.parametrize("scene_id", range(2))
def test_every_seg_of_what_training_draws_has_its_mask(name: str, scene_id: int) -> None:
    world: World = WORLDS[name]
    drawn = draw_examples(scene_record(render_scene(0, scene_id, SIZE, world)), MASK_TASKS, ConversationConfig())
    assert [example.task for example in drawn.examples] == [*MASK_TASKS]
    for example in drawn.examples:
        answers = [parse_answer(answer) for answer in example.turns[1::2]]
        assert example.masks is not None
        assert sum(answer.num_segs for answer in answers) == len(example.masks) > 0
        assert len(example.masks) <= world.max_masks
        assert example.masks.any(axis=(1, 2)).all()
        assert not any(SEG in question for question in example.turns[::2])
        if example.task == "gcg":
            assert not answers[0].problems
