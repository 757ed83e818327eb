"""The mini-world as a dataset by name: `miniworld/WORLD@SIZE`, rendered when it is read."""

from __future__ import annotations

from glamm_jax.data.record import Record
from glamm_jax.data.record_sources import RecordScheme, register_scheme
from glamm_jax.errors import ConfigError
from glamm_jax.miniworld.annotations import scene_record
from glamm_jax.miniworld.scene import render_scene
from glamm_jax.miniworld.world import WORLDS

SCHEME = "miniworld"
DEFAULT_SIZE = 128  # width and height of an image in pixels
# Added to the seed of the scenes, so that no two splits share a scene.
SPLIT_SEEDS = {"train": 0, "val": 1_000_003, "test": 2_000_003}
SCENES_PER_EPOCH = 1 << 20
EVAL_LIMIT = 200  # default number of scenes of an evaluation


class MiniWorldRecords:
    """Records of a world by scene id; a record is rendered whenever it is read.

    Args:
        world: key of WORLDS.
        seed: random seed of the scenes.
        size: width and height of the images in pixels.

    Raises:
        ConfigError: there is no such world.
    """

    def __init__(self, world: str, seed: int, size: int = DEFAULT_SIZE):
        if world not in WORLDS:
            raise ConfigError(f"no mini-world {world!r}; there are {', '.join(WORLDS)}")
        self._world, self._seed, self._size = world, seed, size

    def __len__(self) -> int:
        return SCENES_PER_EPOCH

    def __getitem__(self, index: int) -> Record:
        """Render a scene.

        Raises:
            SceneError: the objects of the scene do not fit.
        """
        return scene_record(render_scene(self._seed, index, self._size, WORLDS[self._world]))


def open_miniworld(name: str, split: str, seed: int = 0) -> MiniWorldRecords:
    """Open `miniworld/NAME`, where NAME is WORLD or WORLD@SIZE.

    Args:
        name: such as "easy" (128 x 128 pixels) or "easy@64".
        split: "train", "val" or "test".
        seed: random seed of the scenes.

    Raises:
        ConfigError: there is no such world or split, or the size is not a positive integer.
    """
    world, at, size = name.partition("@")
    if at and not (size.isdecimal() and int(size) > 0):
        raise ConfigError(f"{SCHEME}/{name}: {size!r} is not a size in pixels, as in easy@64")
    if split not in SPLIT_SEEDS:
        raise ConfigError(
            f"{SCHEME}/{name}: no split {split!r}; there are {', '.join(SPLIT_SEEDS)}"
        )
    return MiniWorldRecords(world, seed + SPLIT_SEEDS[split], int(size) if at else DEFAULT_SIZE)


register_scheme(SCHEME, RecordScheme(open_miniworld, EVAL_LIMIT, prompt_style="ours"))
