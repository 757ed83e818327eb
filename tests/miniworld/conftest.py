"""Scenes that several tests look at, drawn once."""

from __future__ import annotations

import pytest

from glamm_jax.miniworld import EASY, FULL, Scene, render_scene

SIZE = 64


@pytest.fixture(scope="session")
def full_scenes() -> list[Scene]:
    """Two hundred of everything."""
    return [render_scene(0, i, SIZE, FULL) for i in range(200)]


@pytest.fixture(scope="session")
def easy_scenes() -> list[Scene]:
    """A hundred of the easy world."""
    return [render_scene(0, i, SIZE, EASY) for i in range(100)]
