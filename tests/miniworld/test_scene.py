"""Scenes are determined by seed and id, and their masks are the visible pixels."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from glamm_jax.config.experiment import MASK_TASKS, ConversationConfig
from glamm_jax.data.conversation_sampler import sample_conversations
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
    render_scene,
    scene_record,
)
from glamm_jax.miniworld.layout import NO_INDEX
from glamm_jax.miniworld.rendering import render_layout
from glamm_jax.miniworld.shapes import SHAPES
from glamm_jax.miniworld.world import COLOURS, HANGING, NEW_PLACE, NEW_SHAPE
from glamm_jax.text.answer_parser import parse_answer
from glamm_jax.text.special_tokens import SEG
from tests.miniworld.conftest import max_masks

pytestmark = pytest.mark.usefixtures("unchecked")  # most of the time would be type checks

SIZE = 64
STAR, RING = math.pi / 5, 0.66


def test_a_scene_follows_from_seed_and_id() -> None:
    scene, _, again = (render_scene(1, i, SIZE) for i in (5, 6, 5))
    assert scene.layout == again.layout
    np.testing.assert_array_equal(scene.image, again.image)
    assert scene_record(scene) == scene_record(again)
    for other in (
        render_scene(2, 5, SIZE),
        render_scene(1, 6, SIZE),
        render_scene(1, 5, SIZE, EASY),
    ):
        assert not np.array_equal(scene.image, other.image)


def test_a_larger_picture_shows_the_same_scene() -> None:
    small, large = render_scene(0, 3, SIZE), render_scene(0, 3, 4 * SIZE)
    assert small.layout == large.layout
    blocks = large.rendering.labels.reshape(SIZE, 4, SIZE, 4)
    same = (blocks == small.rendering.labels[:, None, :, None]).mean()
    assert same > 0.97


def test_every_pixel_belongs_to_one_mask(full_scenes: list[Scene]) -> None:
    for scene in full_scenes[:30]:
        masks = [scene.stuff_mask(i) for i in range(len(scene.stuff))]
        masks += [scene.object_mask(i) for i in range(len(scene.objects))]
        assert (np.sum(masks, axis=0) == 1).all()


def test_a_mask_is_its_object_without_what_nearer_objects_cover(full_scenes: list[Scene]) -> None:
    covered = 0
    for scene in full_scenes[:40]:
        complete = []
        for item in scene.objects:
            layout = replace(scene.layout, objects=(replace(item, base_index=NO_INDEX),))
            alone = render_layout(layout, SIZE, np.random.default_rng(0))
            complete.append(alone.labels == len(scene.stuff))
        for i, mask in enumerate(complete):
            nearer = np.any([np.zeros_like(mask), *complete[i + 1 :]], axis=0)
            np.testing.assert_array_equal(scene.object_mask(i), mask & ~nearer)
            assert scene.rendering.object_areas[i] == mask.sum()
            assert scene.object_mask(i).sum() >= FULL.min_visible * mask.sum()
            covered += bool((mask & nearer).any())
    assert covered > 10  # objects do cover each other


def test_near_objects_are_rendered_over_far_ones(full_scenes: list[Scene]) -> None:
    for scene in full_scenes:
        depths = [item.depth for item in scene.objects]
        assert depths == sorted(depths)
        for item in scene.objects:
            if item.base_index != NO_INDEX:
                assert scene.objects[item.base_index].base_index == NO_INDEX
                assert item.bottom < scene.objects[item.base_index].y


def test_a_part_is_within_its_object_and_has_its_own_colour(full_scenes: list[Scene]) -> None:
    parts = 0
    for scene in full_scenes:
        for i, item in enumerate(scene.objects):
            mask = scene.part_mask(i)
            assert mask.any() == (item.part is not None)
            if item.part is None or scene.layout.daytime != "day" or mask.sum() < 40:
                continue
            assert (scene.object_mask(i) | ~mask).all()
            assert _nearest_colour(scene.image[mask]) == item.part.colour
            parts += 1
    assert parts > 5


def test_an_object_has_its_colour(easy_scenes: list[Scene]) -> None:
    for scene in easy_scenes:
        for i, item in enumerate(scene.objects):
            assert _nearest_colour(scene.image[scene.object_mask(i)]) == item.colour


def _nearest_colour(pixels: np.ndarray) -> str:
    """Return the colour nearest to the median, which outlines and highlights do not affect."""
    median = np.median(pixels, axis=0)
    return min(COLOURS, key=lambda colour: float(np.abs(median - COLOURS[colour]).sum()))


def test_objects_stand_on_their_ground(
    full_scenes: list[Scene],
) -> None:
    for scene in full_scenes:
        bounds = [0.0, *(edge.height for edge in scene.layout.boundaries), 1.0]
        for item in scene.objects:
            if item.ground_index == NO_INDEX:
                continue
            hangs = scene.stuff[item.ground_index] in HANGING
            top = item.y - item.radius if hangs else item.bottom
            assert (
                bounds[item.ground_index]
                <= top
                < item.bottom + 1e-9
                <= bounds[item.ground_index + 1]
            )


def test_small_and_large_objects_differ_clearly(full_scenes: list[Scene]) -> None:
    objects = [item for scene in full_scenes for item in scene.objects]
    small = max(item.radius for item in objects if item.size == "small")
    large = min(item.radius for item in objects if item.size == "large")
    assert large - small > 0.02


def test_a_full_world_shows_all_that_it_has(full_scenes: list[Scene]) -> None:
    objects = [item for scene in full_scenes for item in scene.objects]
    assert {item.shape for item in objects} == set(FULL.shapes)
    assert len(FULL.shapes) >= 6
    assert {item.colour for item in objects} == set(FULL.colours)
    assert {item.texture for item in objects} == set(FULL.textures)
    assert {scene.layout.place for scene in full_scenes} == set(FULL.places)
    assert {scene.layout.daytime for scene in full_scenes} == set(FULL.daytimes)
    assert {name for scene in full_scenes for name in scene.stuff} >= {
        *("sky", "grass", "water", "road", "floor", "wall"),
    }
    assert any(item.base_index != NO_INDEX for item in objects)
    kinds = [[item.kind for item in scene.objects] for scene in full_scenes]
    assert any(len(set(kind)) < len(kind) for kind in kinds)


def test_colour_alone_often_does_not_tell(easy_scenes: list[Scene]) -> None:
    shared = [
        scene
        for scene in easy_scenes
        if len({t.colour for t in scene.objects}) < len(scene.objects)
    ]
    assert len(shared) > len(easy_scenes) / 4


def test_withheld_kinds_are_neither_shown_nor_named() -> None:
    kinds = (("red", "star"), ("blue", "circle"))
    train, test = hold_out(EASY, kinds)
    for i in range(200):
        scene = render_scene(0, i, SIZE, train)
        assert not {item.kind for item in scene.objects} & set(kinds)
        annotations = scene_record(scene).annotations
        texts = " ".join(" ".join((item.text, *item.turns)) for item in annotations)
        assert not any(f"{colour} {shape}" in texts for colour, shape in kinds)
    for i in range(50):
        assert {item.kind for item in render_scene(0, i, SIZE, test).objects} & set(kinds)


def test_the_new_shape_and_place_are_in_extended_worlds_only(
    full_scenes: list[Scene], easy_scenes: list[Scene]
) -> None:
    for scene in (*full_scenes, *easy_scenes):
        assert scene.layout.place != NEW_PLACE
        assert all(item.shape != NEW_SHAPE for item in scene.objects)
    for world in (EASY, FULL):
        new = [render_scene(0, i, SIZE, extended(world)) for i in range(40)]
        assert any(scene.layout.place == NEW_PLACE for scene in new)
        assert any(item.shape == NEW_SHAPE for scene in new for item in scene.objects)


def test_a_world_without_room_says_so() -> None:
    with pytest.raises(
        SceneError, match=r"10 to 10 objects .* do not fit visibly into 64 x 64 pixels"
    ):
        render_scene(0, 0, SIZE, replace(EASY, num_objects=(10, 10), radii=(0.2, 0.22)))
    with pytest.raises(SceneError, match="into 8 x 8 pixels; use fewer"):
        render_scene(0, 0, 8, FULL)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shapes", ("circle", "blob"), r"World.shapes = .*choose some of circle, square"),
        ("colours", (), "World.colours"),
        ("num_objects", (3, 2), r"World.num_objects = \(3, 2\): between 1 and 12"),
        ("radii", (0.2, 0.4), "World.radii"),
        ("repeats", 1.5, "World.repeats = 1.5: must be in 0 to 1"),
        ("min_spacing", 0.1, "World.min_spacing"),
        ("withheld", EASY.kinds[3:], "too few kinds are left"),
        ("withheld", (("red", "blob"),), "a kind is a colour and a shape of this world"),
        ("text_style", "many", "World.text_style"),
    ],
)
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
    sampled = sample_conversations(
        scene_record(render_scene(0, scene_id, SIZE, world)), MASK_TASKS, ConversationConfig()
    )
    assert [example.task for example in sampled.examples] == [*MASK_TASKS]
    for example in sampled.examples:
        answers = [parse_answer(answer) for answer in example.turns[1::2]]
        assert example.masks is not None
        assert sum(answer.num_segs for answer in answers) == len(example.masks) > 0
        assert len(example.masks) <= max_masks(world)
        assert example.masks.any(axis=(1, 2)).all()
        assert not any(SEG in question for question in example.turns[::2])
        if example.task == "gcg":
            assert not answers[0].problems
