"""Common parts of writing mini-worlds in the folder formats of real datasets.

    write_grand(folder / "grand", scenes)                       # GranD
    write_grandf(folder / "grandf", {"val": scenes})            # GranD_f, with references
    write_refcoco(folder / "refcoco", {"train": scenes})        # refCOCO

The readers of the real datasets read these folders. A folder appears under its name when it is
complete. Images are named after scene ids, so the scenes of a folder need different ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from glamm_jax.data import rle
from glamm_jax.miniworld.annotations import encode_jpeg, mask_box
from glamm_jax.miniworld.scene import Scene

JsonObject = dict[str, Any]
ScenesBySplit = Mapping[str, Iterable[Scene]]


def write_image(folder: Path, name: str, scene: Scene) -> None:
    """Write the JPEG of a scene.

    Args:
        folder: created if it does not exist.
        name: name of the file.
        scene: the scene.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode_jpeg(scene.image))


def write_json(path: Path, value: Any) -> None:
    """Write compact JSON; folders are created as needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


def coco_image(scene: Scene, image_id: int | str) -> JsonObject:
    """Return COCO's entry of an image, without "file_name"."""
    return {"id": image_id, "height": scene.size, "width": scene.size}


def coco_instance(mask: Bool[np.ndarray, "h w"]) -> JsonObject:
    """Return COCO's entry of a mask, without ids; "bbox" is x, y, width, height in pixels."""
    x0, y0, x1, y1 = mask_box(mask)
    shape = {"segmentation": rle.encode(mask), "bbox": [x0, y0, x1 - x0, y1 - y0]}
    return {**shape, "area": int(mask.sum()), "iscrowd": 0}
