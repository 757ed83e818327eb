"""The mini-world in the format of refCOCO: unambiguous expressions of single objects.

folder/Refer_Segm/refcoco/{instances.json, refs(unc).p}
folder/Refer_Segm/coco_2014/train2014/COCO_train2014_000000000007.jpg
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

from glamm_jax.files import atomic_folder
from glamm_jax.miniworld.annotations import entity_mask, referring_expressions, text_rng
from glamm_jax.miniworld.captions import SceneEntity
from glamm_jax.miniworld.folders import (
    JsonObject,
    ScenesBySplit,
    coco_image,
    coco_instance,
    write_image,
    write_json,
)
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.shapes import SHAPES

PICKLE_PROTOCOL = 2  # that of the published files


def write_refcoco(folder: Path | str, splits: ScenesBySplit) -> None:
    """Write scenes by split in refCOCO's format.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    images: list[JsonObject] = []
    annotations: list[JsonObject] = []
    refs: list[JsonObject] = []
    with atomic_folder(folder) as unfinished:
        base = unfinished / "Refer_Segm"
        for split, scenes in splits.items():
            for scene in scenes:
                name = f"COCO_train2014_{scene.scene_id:012d}.jpg"
                write_image(base / "coco_2014" / "train2014", name, scene)
                images.append({"file_name": name, **coco_image(scene, scene.scene_id)})
                for annotation, ref in _annotations(scene, name, split, len(annotations)):
                    annotations.append(annotation)
                    refs.append(ref)
        categories = [{"id": i + 1, "name": shape} for i, shape in enumerate(SHAPES)]
        instances = {"images": images, "annotations": annotations, "categories": categories}
        write_json(base / "refcoco" / "instances.json", instances)
        refs_file = base / "refcoco" / "refs(unc).p"
        refs_file.write_bytes(pickle.dumps(refs, protocol=PICKLE_PROTOCOL))


def _annotations(
    scene: Scene, name: str, split: str, first_id: int
) -> Iterator[tuple[JsonObject, JsonObject]]:
    """Yield the instance and the ref of every object that has an expression."""
    expressions = referring_expressions(scene, text_rng(scene))
    ann_id = first_id
    for i, item in enumerate(scene.objects):
        entity = SceneEntity("object", i)
        texts = [text for text, entities in expressions if entities == (entity,)]
        if not texts:
            continue
        category_id = list(SHAPES).index(item.shape) + 1
        ids = {"image_id": scene.scene_id, "category_id": category_id}
        instance = coco_instance(entity_mask(scene, entity))
        instance["segmentation"] = [instance["segmentation"]]
        sentences = [
            {"sent_id": 100 * ann_id + k, "sent": text, "raw": text, "tokens": text.split()}
            for k, text in enumerate(texts)
        ]
        ref = {"ref_id": ann_id, "ann_id": ann_id, "file_name": name, "split": split}
        ref |= {"sentences": sentences, "sent_ids": [sent["sent_id"] for sent in sentences]}
        yield {"id": ann_id, **ids, **instance}, ref | ids
        ann_id += 1
