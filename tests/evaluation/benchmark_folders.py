"""Folders of benchmarks in their own formats, made of scenes of the mini-world."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glamm_jax.data import rle
from glamm_jax.miniworld import EASY, render_scene
from glamm_jax.miniworld.annotations import (
    encode_jpeg,
    entity_mask,
    mask_box,
    referring_expressions,
    text_rng,
    union_mask,
)
from glamm_jax.miniworld.captions import SceneEntity
from glamm_jax.miniworld.scene import Scene

SIZE = 64


def scenes(number: int, seed: int = 11) -> list[Scene]:
    """Scenes of the world that the shipped model was trained in, of other seeds."""
    return [render_scene(seed, i, SIZE, EASY) for i in range(number)]


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_jpeg(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_jpeg(pixels))


def write_png(path: Path, mask: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def first_expression(scene: Scene) -> tuple[str, np.ndarray]:
    """The first expression of a scene, and its mask."""
    text, entities = referring_expressions(scene, text_rng(scene))[0]
    return text, union_mask(scene, entities)


def write_reason_seg(folder: Path, number: int = 4) -> Path:
    """ReasonSeg/val: boxes as polygons, short and long queries in turn, ignored corners."""
    for i, scene in enumerate(scenes(number)):
        text, mask = first_expression(scene)
        x0, y0, x1, y1 = mask_box(mask)
        box = [[x0, y0], [x1 - 1, y0], [x1 - 1, y1 - 1], [x0, y1 - 1]]
        corner = [[0, 0], [3, 0], [3, 3], [0, 3]]
        shapes = [
            {"label": "target", "points": box},
            {"label": "ignore", "points": corner},
            {"label": "flag", "points": [[0, 0]]},
        ]
        content = {"text": [text, "another"], "is_sentence": bool(i % 2), "shapes": shapes}
        write(folder / "ReasonSeg" / "val" / f"{i}_0.json", content)
        write_jpeg(folder / "ReasonSeg" / "val" / f"{i}_0.jpg", scene.image)
    return folder


def write_grefcoco(folder: Path, number: int = 3) -> Path:
    """Gref's files: every scene has one expression per object, one of two objects, one of none."""
    images, annotations, refs = [], [], []
    for i, scene in enumerate(scenes(number)):
        name = f"COCO_train2014_{i:012d}.jpg"
        write_jpeg(folder / "images" / "train2014" / name, scene.image)
        images.append({"id": i, "file_name": name, "height": SIZE, "width": SIZE})
        ids = []
        for k in range(len(scene.objects)):
            runs = rle.encode(entity_mask(scene, SceneEntity("object", k)))
            ids.append(len(annotations))
            fields = {"id": ids[-1], "image_id": i, "category_id": 1, "iscrowd": 0}
            annotations.append({**fields, "segmentation": [runs], "bbox": [0, 0, 1, 1]})
        texts = [(first_expression(scene)[0], ids[:1]), ("Both ", ids[:2]), ("a zebra", [-1])]
        for text, ann_id in texts:
            sentences = [{"sent_id": len(refs), "raw": text, "sent": text, "tokens": []}]
            refs.append(
                {"ref_id": len(refs), "ann_id": ann_id, "image_id": i, "category_id": [1]}
                | {"split": "val", "sentences": sentences, "file_name": name}
            )
    instances = {"images": images, "annotations": annotations, "categories": []}
    write(folder / "grefcoco" / "instances.json", instances)
    write(folder / "grefcoco" / "grefs(unc).json", refs)
    return folder


def write_grounding_suite(folder: Path, number: int = 4) -> Path:
    """GroundingSuite-Eval.jsonl with one expression of each scene, the classes in turn."""
    lines = []
    for i, scene in enumerate(scenes(number)):
        text, mask = first_expression(scene)
        name = f"unlabeled2017/{i:012d}.jpg"
        write_jpeg(folder / name, scene.image)
        fields = {"idx": i, "image_path": name, "class_id": i % 4 + 1, "label": text.split()[-1]}
        fields |= {"caption": f"{text}.", "box": list(mask_box(mask))}
        lines.append(json.dumps(fields | {"segmentation": rle.encode(mask)}) + "\n")
    (folder / "GroundingSuite-Eval.jsonl").write_text("".join(lines))
    return folder


def write_hallu_seg_bench(folder: Path, number: int = 2) -> Path:
    """A part of HalluSegBench: two scenes are the images of a pair."""
    all_scenes, entries = scenes(2 * number), []
    for i in range(number):
        entry: dict[str, Any] = {"ann_id": 100 + i, "label": "x"}
        for prefix, scene in zip(("factual", "counterfactual"), all_scenes[2 * i :], strict=False):
            text, mask = first_expression(scene)
            entry[f"{prefix}_label"] = text
            entry[f"{prefix}_image_path"] = f"{prefix}_images/{i}.jpg"
            entry[f"{prefix}_mask_path"] = f"{prefix}_masks/{i}_mask.png"
            write_jpeg(folder / entry[f"{prefix}_image_path"], scene.image)
            write_png(folder / entry[f"{prefix}_mask_path"], mask)
        entries.append(entry)
    write(folder / "data.json", entries)
    return folder


def write_coco(folder: Path, number: int = 3) -> Path:
    """COCO's annotations of val2014: a dog in every image, a cat in the captions."""
    images, annotations, captions = [], [], []
    for i, scene in enumerate(scenes(number)):
        name = f"COCO_val2014_{i:012d}.jpg"
        write_jpeg(folder / "val2014" / name, scene.image)
        images.append({"id": i, "file_name": name, "height": SIZE, "width": SIZE})
        annotations.append({"id": i, "image_id": i, "category_id": 18, "iscrowd": 0})
        captions.append({"id": i, "image_id": i, "caption": "A cat beside a pet."})
    categories = [{"id": 18, "name": "dog"}]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    write(folder / "annotations" / "instances_val2014.json", instances)
    write(
        folder / "annotations" / "captions_val2014.json",
        {"images": images, "annotations": captions},
    )
    return folder
