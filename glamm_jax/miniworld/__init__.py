"""The mini-world: scenes drawn on the fly, with everything that is true of them.

    one = scene(seed=0, scene_id=7, size=128, world=FULL)     the picture and its truth
    record(one)                                               annotations of all tasks

Training streams records of scenes that are drawn as they are asked for: `miniworld/full` is a
dataset by name (`glamm_jax.data.record_sources`), from which `data.tasks` draws conversations.

Everything follows from (seed, id), so any scene can be made anywhere, at any time, again. Another
processor or another numpy may round a pixel differently.

world: what there is. layout: where it is. painting, stuff, shapes: how it looks. scene: the truth.
expressions, captions, questions: what can be said. annotations: records of it.
"""

from glamm_jax.miniworld.annotations import scene_record
from glamm_jax.miniworld.records import MiniWorldRecords, open_miniworld
from glamm_jax.miniworld.scene import Scene, SceneError, render_scene
from glamm_jax.miniworld.world import EASY, FULL, WORLDS, World, extended, hold_out

__all__ = [
    "EASY",
    "FULL",
    "WORLDS",
    "MiniWorldRecords",
    "Scene",
    "SceneError",
    "World",
    "extended",
    "hold_out",
    "open_miniworld",
    "scene_record",
    "render_scene",
]
