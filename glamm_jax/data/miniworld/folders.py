"""Mini-worlds as folders in the formats of real datasets, so that the same readers serve both.

    write_grand(folder, scenes)                          GranD as released
    write_grandf(folder, {"train": scenes, ...})         GranD_f: human-annotated, and its truth
    write_refcoco(folder, {"train": scenes, ...})        refCOCO

Each is written beside its name and renamed when it is whole. A picture is called by its scene's id,
so scenes of one folder need different ids.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import masks
from glamm_jax.data.miniworld.annotations import bounds, jpeg
from glamm_jax.data.miniworld.scene import Scene

Fields = dict[str, Any]
Splits = Mapping[str, Iterable[Scene]]


class WorldFolderError(OSError):
    """A folder that cannot be written. Names it and says why."""


@contextmanager
def new_folder(folder: Path | str) -> Iterator[Path]:
    """A folder that appears under its name when all of it is written, and not before.

    Raises: WorldFolderError when there is one already, or nothing can be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise WorldFolderError(f"{folder}: exists; remove it or choose another name")
    unfinished = folder.with_name(f"{folder.name}.tmp-{uuid.uuid4().hex[:8]}")
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, folder)
    except OSError as error:
        raise WorldFolderError(f"{folder}: {error}; nothing is left of it") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_picture(folder: Path, name: str, one: Scene) -> None:
    """The scene's JPEG, under the name that annotations know."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(jpeg(one.image))


def write_json(path: Path, value: Any) -> None:
    """Compact JSON, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


def coco_image(one: Scene, identity: int | str) -> Fields:
    """A picture as COCO lists it, without its file's name."""
    return {"id": identity, "height": one.size, "width": one.size}


def coco_instance(mask: Bool[np.ndarray, "h w"]) -> Fields:
    """What COCO says about a mask; boxes are x, y, width, height in pixels."""
    x0, y0, x1, y1 = bounds(mask)
    shape = {"segmentation": masks.encode(mask), "bbox": [x0, y0, x1 - x0, y1 - y0]}
    return {**shape, "area": int(mask.sum()), "iscrowd": 0}
