"""Mini-worlds as folders in the formats of real datasets, so that the same readers serve both.

    write_grand(folder, scenes)                          GranD as released
    write_grandf(folder, {"train": scenes, ...})         GranD_f: human-annotated, and its truth
    write_refcoco(folder, {"train": scenes, ...})        refCOCO

Each appears under its name when it is whole. A picture is called by its scene's id, so scenes of
one folder need different ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import rle
from glamm_jax.miniworld.annotations import mask_box, encode_jpeg
from glamm_jax.miniworld.scene import Scene

JsonObject = dict[str, Any]
ScenesBySplit = Mapping[str, Iterable[Scene]]


def write_image(folder: Path, name: str, one: Scene) -> None:
    """The scene's JPEG, under the name that annotations know."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode_jpeg(one.image))


def write_json(path: Path, value: Any) -> None:
    """Compact JSON, in folders that are made for it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


def coco_image(one: Scene, identity: int | str) -> JsonObject:
    """A picture as COCO lists it, without its file's name."""
    return {"id": identity, "height": one.size, "width": one.size}


def coco_instance(mask: Bool[np.ndarray, "h w"]) -> JsonObject:
    """What COCO says about a mask; boxes are x, y, width, height in pixels."""
    x0, y0, x1, y1 = mask_box(mask)
    shape = {"segmentation": rle.encode(mask), "bbox": [x0, y0, x1 - x0, y1 - y0]}
    return {**shape, "area": int(mask.sum()), "iscrowd": 0}
