"""The mini-world in the formats of GranD_f: training data and references of the evaluation.

folder/GranDf/annotations/train/GranDf_HA_GCG_train.json
folder/GranDf/annotations/val_test/{val,test}_gcg_coco_{caption,mask}_gt.json
folder/GranDf/GranDf_HA_images/{train,val_test}/sa_7.jpg
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glamm_jax.data import rle
from glamm_jax.files import atomic_folder
from glamm_jax.miniworld.annotations import entity_mask, text_rng, union_mask
from glamm_jax.miniworld.captions import dense_caption
from glamm_jax.miniworld.folders import (
    JsonObject,
    ScenesBySplit,
    coco_image,
    coco_instance,
    write_image,
    write_json,
)
from glamm_jax.miniworld.scene import Scene


def write_grandf(folder: Path | str, splits: ScenesBySplit) -> None:
    """Write scenes of the splits "train", "val" and "test", or of some of them.

    Raises:
        FolderError: the folder exists or cannot be written.
    """
    with atomic_folder(folder) as unfinished:
        base = unfinished / "GranDf"
        for split, scenes in splits.items():
            if split == "train":
                _write_training_data(base, scenes)
            else:
                _write_references(base, split, scenes)


def _write_training_data(base: Path, scenes: Iterable[Scene]) -> None:
    """Write captions with groundings by phrase; no phrase of a dense caption occurs twice."""
    entries: list[JsonObject] = []
    for scene in scenes:
        image_id, caption = f"sa_{scene.scene_id}", dense_caption(scene, text_rng(scene))
        write_image(base / "GranDf_HA_images" / "train", f"{image_id}.jpg", scene)
        groundings = {
            caption.text[start:end]: {
                "token_positives": [start, end],
                "rle_masks": [rle.encode(entity_mask(scene, entity)) for entity in entities],
            }
            for start, end, entities in caption.phrases
        }
        entries.append(
            {
                "file_name": f"{image_id}.jpg",
                "height": scene.size,
                "width": scene.size,
                "image_id": image_id,
                "caption": caption.text,
                "groundings": groundings,
            }
        )
    write_json(base / "annotations" / "train" / "GranDf_HA_GCG_train.json", entries)


def _write_references(base: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Write captions with labels, and masks in the order of the labels."""
    images: list[JsonObject] = []
    captions: list[JsonObject] = []
    instances: list[JsonObject] = []
    for scene in scenes:
        image_id, caption = f"sa_{scene.scene_id}", dense_caption(scene, text_rng(scene))
        write_image(base / "GranDf_HA_images" / "val_test", f"{image_id}.jpg", scene)
        images.append({"file_name": f"{image_id}.jpg", **coco_image(scene, image_id)})
        captions.append(
            {
                "id": len(captions),
                "image_id": image_id,
                "caption": caption.text,
                "labels": [caption.text[start:end] for start, end, _ in caption.phrases],
            }
        )
        for _, _, entities in caption.phrases:
            ids = {"id": len(instances), "image_id": image_id, "category_id": 1}
            instances.append(ids | coco_instance(union_mask(scene, entities)))
    folder = base / "annotations" / "val_test"
    # quirk 47: the original's caption file has no categories; with them pycocotools would look for
    # a category of every caption.
    content: JsonObject = {"images": images, "annotations": captions}
    write_json(folder / f"{split}_gcg_coco_caption_gt.json", content)
    categories = [{"id": 1, "name": "object"}]
    content = {"images": images, "annotations": instances, "categories": categories}
    write_json(folder / f"{split}_gcg_coco_mask_gt.json", content)
