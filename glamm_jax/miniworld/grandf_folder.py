"""The mini-world in the formats of GranD_f: what people annotated, and the evaluation's truth.

folder/GranDf/annotations/train/GranDf_HA_GCG_train.json
folder/GranDf/annotations/val_test/{val,test}_gcg_coco_{caption,mask}_gt.json
folder/GranDf/GranDf_HA_images/{train,val_test}/sa_7.jpg
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glamm_jax.data import rle
from glamm_jax.files import atomic_folder
from glamm_jax.miniworld.annotations import entity_mask, union_mask, text_rng
from glamm_jax.miniworld.captions import SceneCaption, dense_caption
from glamm_jax.miniworld.folders import (
    JsonObject,
    ScenesBySplit,
    coco_image,
    coco_instance,
    write_json,
    write_image,
)
from glamm_jax.miniworld.scene import Scene


def write_grandf(folder: Path | str, splits: ScenesBySplit) -> None:
    """Write scenes by split: train, val, test, or some of them.

    Raises: FolderError when the folder exists or cannot be written.
    """
    with atomic_folder(folder) as unfinished:
        base = unfinished / "GranDf"
        for split, scenes in splits.items():
            if split == "train":
                images = base / "GranDf_HA_images" / "train"
                entries = [_training_entry(one, images) for one in scenes]
                write_json(base / "annotations" / "train" / "GranDf_HA_GCG_train.json", entries)
            else:
                _write_truth(base, split, scenes)


def _dense(one: Scene) -> SceneCaption:
    return dense_caption(one, text_rng(one))


def _training_entry(one: Scene, images: Path) -> JsonObject:
    """Groundings by phrase; no phrase of a dense caption occurs twice. Writes the picture, too."""
    name, caption = f"sa_{one.scene_id}", _dense(one)
    write_image(images, f"{name}.jpg", one)
    groundings = {
        caption.text[start:end]: {
            "token_positives": [start, end],
            "rle_masks": [rle.encode(entity_mask(one, mention)) for mention in mentions],
        }
        for start, end, mentions in caption.phrases
    }
    size = {"height": one.size, "width": one.size, "image_id": name}
    return {"file_name": f"{name}.jpg", **size, "caption": caption.text, "groundings": groundings}


def _write_truth(base: Path, split: str, scenes: Iterable[Scene]) -> None:
    """Captions with labels, and masks in the order of the labels; categories in one file only."""
    images: list[JsonObject] = []
    captions: list[JsonObject] = []
    found: list[JsonObject] = []
    for one in scenes:
        name, caption = f"sa_{one.scene_id}", _dense(one)
        write_image(base / "GranDf_HA_images" / "val_test", f"{name}.jpg", one)
        images.append({"file_name": f"{name}.jpg", **coco_image(one, name)})
        labels = [caption.text[start:end] for start, end, _ in caption.phrases]
        told = {"image_id": name, "caption": caption.text, "labels": labels}
        captions.append({"id": len(captions), **told})
        for _, _, mentions in caption.phrases:
            placed = {"id": len(found), "image_id": name, "category_id": 1}
            found.append(placed | coco_instance(union_mask(one, mentions)))
    folder = base / "annotations" / "val_test"
    # With categories in it, pycocotools would ask captions for theirs (trap 47).
    truth = {"images": images, "annotations": captions}
    write_json(folder / f"{split}_gcg_coco_caption_gt.json", truth)
    truth = {"images": images, "annotations": found, "categories": [{"id": 1, "name": "object"}]}
    write_json(folder / f"{split}_gcg_coco_mask_gt.json", truth)
