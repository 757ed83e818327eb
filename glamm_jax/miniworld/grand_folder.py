"""The mini-world in the format of the GranD release: one JSON file per image, in tar archives.

    folder/GranD_Data/images/sa_7.jpg
    folder/GranD_Data/annotations/part_1.tar        sa_7.json, ...

Objects are `objects`; their attributes are unambiguous expressions. Stuff and parts are
`floating_objects`, which have masks and are linked to phrases of captions, but have no attributes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

import numpy as np

from glamm_jax.data import rle
from glamm_jax.files import atomic_folder
from glamm_jax.miniworld.annotations import (
    GroundedTexts,
    entity_mask,
    mask_box,
    referring_expressions,
    scene_entities,
    text_rng,
)
from glamm_jax.miniworld.captions import (
    SceneCaption,
    SceneEntity,
    dense_caption,
    place_description,
    short_captions,
)
from glamm_jax.miniworld.folders import JsonObject, write_image
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.world import PLACES

SCENES_PER_ARCHIVE = 1000
MAX_DEPTH = 255.0  # "depth" of the nearest object; larger is nearer, as in MiDaS


def write_grand(folder: Path | str, scenes: Iterable[Scene]) -> None:
    """Write scenes in GranD's format, holding one scene in memory at a time.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    with atomic_folder(folder) as unfinished:
        data = unfinished / "GranD_Data"
        (data / "annotations").mkdir(parents=True)
        for part, group in groupby(enumerate(scenes), lambda item: item[0] // SCENES_PER_ARCHIVE):
            with tarfile.open(data / "annotations" / f"part_{part + 1}.tar", "w") as archive:
                for _, scene in group:
                    name = f"sa_{scene.scene_id}"
                    write_image(data / "images", f"{name}.jpg", scene)
                    entry = {f"{name}.jpg": _entry(scene)}
                    content = json.dumps(entry, separators=(",", ":")).encode("utf-8")
                    # A member without time and owner: equal scenes give equal archives.
                    member = tarfile.TarInfo(f"{name}.json")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def _entry(scene: Scene) -> JsonObject:
    """Return GranD's annotation of an image."""
    rng = text_rng(scene)
    dense, short = dense_caption(scene, rng), short_captions(scene, rng)
    expressions = referring_expressions(scene, rng)
    # As in GranD, objects have the first ids and floating objects the following ones.
    entities = sorted(scene_entities(scene), key=lambda entity: entity.category != "object")
    ids = {entity: i for i, entity in enumerate(entities)}
    boxes = {entity: list(mask_box(entity_mask(scene, entity))) for entity in entities}
    objects = [entity for entity in entities if entity.category == "object"]
    floating = [entity for entity in entities if entity.category != "object"]
    category, fine_category = PLACES[scene.layout.place].landmark
    return {
        "objects": [_object(scene, x, ids[x], boxes[x], expressions) for x in objects],
        "floating_objects": [_floating_object(scene, x, ids[x], boxes[x]) for x in floating],
        "floating_attributes": [],
        "landmark": {"category": category, "fine_category": fine_category},
        "affordances": {},
        "id_counter": len(entities),
        "relationships": _relationships(short, ids),
        "short_captions": [_short_caption(caption, ids, boxes) for caption in short],
        "dense_caption": _dense_caption(dense, ids, boxes),
        "additional_context": f"This is {place_description(scene)}, with {', '.join(scene.stuff)}.",
    }


def _segmentation(scene: Scene, entity: SceneEntity) -> JsonObject:
    mask = rle.encode(entity_mask(scene, entity))
    return {"segmentation": mask, "segmentation_source": "SAM"}


def _object(
    scene: Scene,
    entity: SceneEntity,
    object_id: int,
    box: list[float],
    expressions: GroundedTexts,
) -> JsonObject:
    """Return an object; its attributes are its expressions that contain its shape."""
    item = scene.objects[entity.index]
    texts = [text for text, entities in expressions if entities == (entity,)]
    return {
        "id": object_id,
        "bbox": box,
        "labels": [item.shape],
        "label": item.shape,
        "score": 1.0,
        "attributes": [text for text in texts if item.shape in text] or None,
        "depth": round(MAX_DEPTH * item.depth, 2),
        **_segmentation(scene, entity),
    }


def _floating_object(
    scene: Scene, entity: SceneEntity, object_id: int, box: list[float]
) -> JsonObject:
    if entity.category == "stuff":
        label = scene.stuff[entity.index]
    else:
        part = scene.objects[entity.index].part
        label = part.name if part else ""
    common = {"id": object_id, "bbox": box, "labels": [label], "label": label, "attributes": None}
    return common | _segmentation(scene, entity)


def _phrase(caption: SceneCaption, start: int, end: int) -> JsonObject:
    return {"phrase": caption.text[start:end], "tokens_positive": [start, end]}


def _short_caption(
    caption: SceneCaption, ids: dict[SceneEntity, int], boxes: dict[SceneEntity, list]
) -> JsonObject:
    """Return a short caption; a detail is linked to one object only, that of the lowest id."""
    details = []
    for start, end, entities in caption.phrases:
        first = min(entities, key=lambda entity: ids[entity])
        details.append({**_phrase(caption, start, end), "id": ids[first], "bbox": boxes[first]})
    return {"caption": caption.text, "details": details}


def _dense_caption(
    caption: SceneCaption, ids: dict[SceneEntity, int], boxes: dict[SceneEntity, list]
) -> JsonObject:
    details = [
        _phrase(caption, start, end)
        | {"ids": [ids[x] for x in entities], "bbox": [boxes[x] for x in entities]}
        for start, end, entities in caption.phrases
    ]
    return {"caption": caption.text, "details": details}


def _relationships(captions: Iterable[SceneCaption], ids: dict[SceneEntity, int]) -> JsonObject:
    """Return the phrases of the short captions with the ids of their objects."""
    grounding: dict[str, list[int]] = {}
    for caption in captions:
        for start, end, entities in caption.phrases:
            object_ids = sorted(ids[entity] for entity in entities)
            grounding.setdefault(caption.text[start:end].lower(), object_ids)
    return {
        "object_ids": np.unique([i for group in grounding.values() for i in group]).tolist(),
        "floating_object_ids": [],
        "grounding": [
            {"phrase": phrase, "object_ids": object_ids} for phrase, object_ids in grounding.items()
        ],
    }
