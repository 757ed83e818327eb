"""The mini-world in the format of GranD's release: one JSON a picture, in tar archives.

    folder/GranD_Data/images/sa_7.jpg
    folder/GranD_Data/annotations/part_1.tar        sa_7.json, ...

Things are `objects`, with attributes that mean them alone. Parts and stuff are `floating_objects`:
they have masks and the captions' phrases speak of them, but nothing describes them.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from glamm_jax.data import rle
from glamm_jax.files import atomic_folder
from glamm_jax.miniworld.annotations import (
    scene_entities,
    mask_box,
    referring_expressions,
    entity_mask,
    text_rng,
)
from glamm_jax.miniworld.captions import (
    SceneCaption,
    SceneEntity,
    dense_caption,
    place_description,
    short_captions,
)
from glamm_jax.miniworld.folders import write_image
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.world import PLACES

SCENES_A_PART = 1000
NEAREST = 255.0  # of a depth, which grows with nearness as MiDaS's does
Fields = dict[str, Any]


def write_grand(folder: Path | str, scenes: Iterable[Scene]) -> None:
    """Write scenes as they come; no more than one is in memory.

    Raises: FolderError when the folder exists or cannot be written.
    """
    with atomic_folder(folder) as unfinished:
        data = unfinished / "GranD_Data"
        (data / "annotations").mkdir(parents=True)
        for part, group in groupby(enumerate(scenes), lambda item: item[0] // SCENES_A_PART):
            with tarfile.open(data / "annotations" / f"part_{part + 1}.tar", "w") as archive:
                for _, one in group:
                    write_image(data / "images", f"{image_name(one)}.jpg", one)
                    _add(archive, f"{image_name(one)}.json", grand_entry(one))


def image_name(one: Scene) -> str:
    """What GranD calls a picture, without its ending."""
    return f"sa_{one.scene_id}"


def grand_entry(one: Scene) -> Fields:
    """What the file of a picture says."""
    rng = text_rng(one)
    dense, short = dense_caption(one, rng), short_captions(one, rng)
    said = referring_expressions(one, rng)
    mentions = scene_entities(one)
    # Things first, as the pipeline numbers objects first and what floats after them.
    ordered = sorted(mentions, key=lambda mention: mention.category != "thing")
    number = {mention: i for i, mention in enumerate(ordered)}
    boxes = {mention: list(mask_box(entity_mask(one, mention))) for mention in mentions}
    things = [mention for mention in ordered if mention.category == "thing"]
    floating = [mention for mention in ordered if mention.category != "thing"]
    category, fine_category = PLACES[one.layout.place].landmark
    return {
        f"{image_name(one)}.jpg": {
            "objects": [_object(one, x, number[x], boxes[x], said) for x in things],
            "floating_objects": [_float(one, x, number[x], boxes[x]) for x in floating],
            "floating_attributes": [],
            "landmark": {"category": category, "fine_category": fine_category},
            "affordances": {},
            "id_counter": len(ordered),
            "relationships": _relationships(short, number),
            "short_captions": [_short(caption, number, boxes) for caption in short],
            "dense_caption": _dense(dense, number, boxes),
            "additional_context": f"This is {place_description(one)}, with {', '.join(one.stuff)}.",
        }
    }


def _add(archive: tarfile.TarFile, name: str, entry: Fields) -> None:
    """A member without time and owner, so that the archive depends on its content alone."""
    data = json.dumps(entry, separators=(",", ":")).encode("utf-8")
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _segmentation(one: Scene, mention: SceneEntity) -> Fields:
    return {"segmentation": rle.encode(entity_mask(one, mention)), "segmentation_source": "SAM"}


def _object(
    one: Scene,
    mention: SceneEntity,
    number: int,
    box: list[float],
    said: list[tuple[str, tuple[SceneEntity, ...]]],
) -> Fields:
    """A thing; its attributes are the expressions that have its name in them."""
    thing = one.objects[mention.index]
    texts = [text for text, meant in said if meant == (mention,)]
    return {
        "id": number,
        "bbox": box,
        "labels": [thing.shape],
        "label": thing.shape,
        "score": 1.0,
        "attributes": [text for text in texts if thing.shape in text] or None,
        "depth": round(NEAREST * thing.depth, 2),
        **_segmentation(one, mention),
    }


def _float(one: Scene, mention: SceneEntity, number: int, box: list[float]) -> Fields:
    if mention.category == "stuff":
        label = one.stuff[mention.index]
    else:
        part = one.objects[mention.index].part
        label = part.name if part else ""
    common = {"id": number, "bbox": box, "labels": [label], "label": label, "attributes": None}
    return common | _segmentation(one, mention)


def _phrase(caption: SceneCaption, start: int, end: int) -> Fields:
    return {"phrase": caption.text[start:end], "tokens_positive": [start, end]}


def _short(caption: SceneCaption, number: dict[SceneEntity, int], boxes: dict[SceneEntity, list]) -> Fields:
    """A detail knows one object: the one of the lowest id."""
    details = []
    for start, end, mentions in caption.phrases:
        first = min(mentions, key=lambda mention: number[mention])
        found = {"id": number[first], "bbox": boxes[first]}
        details.append(_phrase(caption, start, end) | found)
    return {"caption": caption.text, "details": details}


def _dense(caption: SceneCaption, number: dict[SceneEntity, int], boxes: dict[SceneEntity, list]) -> Fields:
    details = [
        _phrase(caption, start, end)
        | {"ids": [number[x] for x in mentions], "bbox": [boxes[x] for x in mentions]}
        for start, end, mentions in caption.phrases
    ]
    return {"caption": caption.text, "details": details}


def _relationships(captions: Iterable[SceneCaption], number: dict[SceneEntity, int]) -> Fields:
    """Phrases of the short captions and the objects that they mean."""
    grounding: dict[str, list[int]] = {}
    for caption in captions:
        for start, end, mentions in caption.phrases:
            ids = sorted(number[mention] for mention in mentions)
            grounding.setdefault(caption.text[start:end].lower(), ids)
    return {
        "object_ids": np.unique([i for ids in grounding.values() for i in ids]).tolist(),
        "floating_object_ids": [],
        "grounding": [{"phrase": phrase, "object_ids": ids} for phrase, ids in grounding.items()],
    }
