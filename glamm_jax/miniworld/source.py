"""The mini-world as a source of records, drawn when they are read: nothing is on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from glamm_jax.data.record import Defect, ReadResult
from glamm_jax.miniworld.annotations import SOURCE_NAME, scene_record
from glamm_jax.miniworld.scene import SceneError, render_scene
from glamm_jax.miniworld.world import FULL, World

DOES_NOT_FIT = "no room for its things"


class MiniWorldSource:
    """Scenes of these ids. `root` is not looked at; sources have one.

    A key holds what its scene follows from, so that another world has other keys.
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
        digest = hashlib.sha256(repr((world, size)).encode("utf-8")).hexdigest()
        self._keys = [f"{digest[:8]}-{seed}-{i}" for i in ids]

    @property
    def keys(self) -> Sequence[str]:
        return self._keys

    def read(self, key: str) -> ReadResult:
        """The record of a scene; none where the world has no room for its things."""
        number = int(key.rpartition("-")[2])
        try:
            one = render_scene(self._seed, number, self._size, self._world)
        except SceneError as error:
            return ReadResult(None, (Defect(DOES_NOT_FIT, str(error)),))
        return ReadResult(scene_record(one, self.split))
