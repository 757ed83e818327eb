"""Scenes that several tests share, rendered once."""

from __future__ import annotations

import pytest

from glamm_jax.miniworld import EASY, FULL, Scene, World, render_scene
from glamm_jax.miniworld.world import MAX_RELATIONS, PLACES

SIZE = 64


@pytest.fixture(scope="session")
def full_scenes() -> list[Scene]:
    """Return 200 scenes of the full world."""
    return [render_scene(0, i, SIZE, FULL) for i in range(200)]


@pytest.fixture(scope="session")
def easy_scenes() -> list[Scene]:
    """Return 100 scenes of the easy world."""
    return [render_scene(0, i, SIZE, EASY) for i in range(100)]


def max_masks(world: World) -> int:
    """Return the maximum number of masks of a grounded caption.

    Objects and their parts; in rich style also stuff and the objects of relations.
    """
    objects = world.num_objects[1] * (2 if world.parts else 1)
    stuff = max(len(PLACES[place].stuff) for place in world.places)
    return objects + (stuff + 2 * MAX_RELATIONS) * (world.text_style == "rich")
