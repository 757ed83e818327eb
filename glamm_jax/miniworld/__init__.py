"""The mini-world: synthetic scenes with exact masks and texts for all tasks.

    scene = render_scene(seed=0, scene_id=7, size=128, world=FULL)     # image and masks
    record = scene_record(scene)                                       # annotations of all tasks

Importing this package registers the datasets `miniworld/WORLD@SIZE`
(`glamm_jax.data.record_sources`), whose records are rendered when they are read.

A scene depends on seed, id, size and world only. Another processor or another version of numpy may
round a pixel differently.

Modules in the order of the data flow: `world` (options), `layout` (sampled content), `rendering`
with `stuff` and `shapes` (pixels), `scene` (image and masks), `expressions`, `captions` and `vqa`
(texts), `annotations` (records), `records` and `source` (datasets), `*_folder` (export).
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
    "render_scene",
    "scene_record",
]
