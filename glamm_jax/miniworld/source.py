"""The mini-world as a dataset source: records are rendered when they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from glamm_jax.data.record import Defect, ReadResult
from glamm_jax.miniworld.annotations import SOURCE_NAME, scene_record
from glamm_jax.miniworld.scene import SceneError, render_scene
from glamm_jax.miniworld.world import FULL, World

DOES_NOT_FIT = "objects do not fit"
# Earlier names of fields of World, which keys are computed from: keys do not change.
FIELD_NAMES_IN_KEYS = {
    "num_objects": "num_things",
    "min_spacing": "closeness",
    "text_style": "words",
}


class MiniWorldSource:
    """Scenes of a range of ids.

    Keys depend on world, size, seed and scene id.

    Args:
        root: not used; all sources have one.
        split: split that the records are labelled with.
        ids: scene ids.
        seed: random seed of the scenes.
        size: width and height of the images in pixels.
        world: options of the scenes.
    """

    name = SOURCE_NAME

    def __init__(
        self,
        root: Path,
        split: str,
        *,
        ids: range,
        seed: int = 0,
        size: int = 128,
        world: World = FULL,
    ):
        self.split, self._seed, self._size, self._world = split, seed, size, world
        options = ", ".join(
            f"{FIELD_NAMES_IN_KEYS.get(field.name, field.name)}={getattr(world, field.name)!r}"
            for field in fields(world)
        )
        digest = hashlib.sha256(f"(World({options}), {size!r})".encode()).hexdigest()
        self._keys = [f"{digest[:8]}-{seed}-{i}" for i in ids]

    @property
    def keys(self) -> Sequence[str]:
        return self._keys

    def read(self, key: str) -> ReadResult:
        """Render a scene; the result has a defect instead of a record if its objects do not fit."""
        scene_id = int(key.rpartition("-")[2])
        try:
            scene = render_scene(self._seed, scene_id, self._size, self._world)
        except SceneError as error:
            return ReadResult(None, (Defect(DOES_NOT_FIT, str(error)),))
        return ReadResult(scene_record(scene, self.split))
