"""The mini-world in the format of refCOCO: expressions that mean one thing each.

folder/Refer_Segm/refcoco/{instances.json, refs(unc).p}
folder/Refer_Segm/coco_2014/train2014/COCO_train2014_000000000007.jpg
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

from glamm_jax.files import atomic_folder
from glamm_jax.miniworld.annotations import referring_expressions, entity_mask, text_rng
from glamm_jax.miniworld.captions import SceneEntity
from glamm_jax.miniworld.folders import (
    JsonObject,
    ScenesBySplit,
    coco_image,
    coco_instance,
    write_json,
    write_image,
)
from glamm_jax.miniworld.scene import Scene
from glamm_jax.miniworld.shapes import SHAPES

PICKLE_PROTOCOL = 2  # that of the files which go round


def write_refcoco(folder: Path | str, splits: ScenesBySplit) -> None:
    """Write scenes by split, as refCOCO: expressions that mean one thing each.

    Raises: FolderError when the folder exists or cannot be written.
    """
    images: list[JsonObject] = []
    annotations: list[JsonObject] = []
    refs: list[JsonObject] = []
    with atomic_folder(folder) as unfinished:
        base = unfinished / "Refer_Segm"
        for split, scenes in splits.items():
            for one in scenes:
                name = f"COCO_train2014_{one.scene_id:012d}.jpg"
                write_image(base / "coco_2014" / "train2014", name, one)
                images.append({"file_name": name, **coco_image(one, one.scene_id)})
                for annotation, ref in _references(one, name, split, len(annotations)):
                    annotations.append(annotation)
                    refs.append(ref)
        categories = [{"id": i + 1, "name": shape} for i, shape in enumerate(SHAPES)]
        instances = {"images": images, "annotations": annotations, "categories": categories}
        write_json(base / "refcoco" / "instances.json", instances)
        refs_file = base / "refcoco" / "refs(unc).p"
        refs_file.write_bytes(pickle.dumps(refs, protocol=PICKLE_PROTOCOL))


def _references(one: Scene, name: str, split: str, first: int) -> Iterator[tuple[JsonObject, JsonObject]]:
    """An object and what is said to point at it, for everything that can be pointed at."""
    said = referring_expressions(one, text_rng(one))
    for i, thing in enumerate(one.objects):
        mention = SceneEntity("thing", i)
        texts = [text for text, mentions in said if mentions == (mention,)]
        if not texts:
            continue
        category = list(SHAPES).index(thing.shape) + 1
        joined = {"image_id": one.scene_id, "category_id": category}
        instance = coco_instance(entity_mask(one, mention))
        instance["segmentation"] = [instance["segmentation"]]
        sentences = [
            {"sent_id": 100 * first + k, "sent": text, "raw": text, "tokens": text.split()}
            for k, text in enumerate(texts)
        ]
        ref = {"ref_id": first, "ann_id": first, "file_name": name, "split": split}
        ref |= {"sentences": sentences, "sent_ids": [item["sent_id"] for item in sentences]}
        yield {"id": first, **joined, **instance}, ref | joined
        first += 1
