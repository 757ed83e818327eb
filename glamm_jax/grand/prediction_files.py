"""The files in which the released steps hand predictions to each other.

    detections = detections_of({"co_detr": [{"bbox": [0, 0, 9, 9], "score": 0.5, "label": "cup"}]})
    detections["co_detr"][0].label          # "cup"

One file per image and model holds {"<image>": {"<model>": content}}. The content of a detector is a
list of `bbox`, `score`, and `label` or `description`; the content of others is kept as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from glamm_jax.grand.record import Detection
from glamm_jax.json_files import JSONError, JSONObject, show

DETECTORS = ("co_detr", "eva-02-01", "eva-02-02", "ov_sam", "grit", "owl_vit", "pomp")
MASK_KEYS = ("sam_mask", "segmentation")


def model_contents(files: Mapping[str, Any], image: str) -> dict[str, Any]:
    """Return what each model's file says about an image.

    A model whose file is no JSON object is left out; a file without the model's key counts as an
    empty list.

    Args:
        files: content of each model's file.
        image: name of the image with extension.
    """
    contents: dict[str, Any] = {}
    for model, file in files.items():
        if isinstance(file, dict):
            content = file.get(image)
            contents[model] = content.get(model, []) if isinstance(content, dict) else []
    return contents


def detections_of(contents: Mapping[str, Any], where: str = "") -> dict[str, list[Detection]]:
    """Return the detections of each model whose content is a list.

    Args:
        contents: of each model.
        where: name of the file, for messages.

    Raises:
        JSONError: a detection has a field of a wrong type.
    """
    return {
        model: [detection_from_json(item, f"{where}: {model}[{i}]") for i, item in enumerate(items)]
        for model, items in contents.items()
        if model in DETECTORS and isinstance(items, list)
    }


def detection_from_json(value: Any, where: str = "detection") -> Detection:
    """Read a detection.

    Args:
        value: with `bbox`, `score`, and `label`, `description` or a mask.
        where: file and index, for messages.

    Raises:
        JSONError: a field has a wrong type.
    """
    entry = JSONObject(value, where)
    box = entry.array("bbox")
    if len(box) != 4 or not all(isinstance(x, int | float) for x in box):
        raise JSONError(f"{where}: bbox = {show(box)} is not [x0, y0, x1, y1]")
    score = entry.value("score", 1.0)
    if not isinstance(score, int | float):
        raise JSONError(f"{where}: score = {show(score)} is not a number")
    masks = [entry.value(key) for key in MASK_KEYS if key in entry]
    return Detection(
        (box[0], box[1], box[2], box[3]),
        score,
        entry.text("label", None),
        entry.text("description", None),
        masks[0] if masks else None,
    )


def detection_to_json(detection: Detection) -> dict[str, Any]:
    """Return a detection in the form of the merged files, which have no masks."""
    value: dict[str, Any] = {"bbox": list(detection.box), "score": detection.score}
    if detection.label is not None:
        value["label"] = detection.label
    if detection.description is not None:
        value["description"] = detection.description
    return value


def proposals_of(annotations: Sequence[Any], where: str = "") -> list[Detection]:
    """Return the regions of a SAM annotation file, whose boxes are x, y, width and height.

    Args:
        annotations: the list under `annotations`.
        where: name of the file, for messages.

    Raises:
        JSONError: a region has a field of a wrong type.
    """
    regions: list[Detection] = []
    for i, value in enumerate(annotations):
        region = detection_from_json(value, f"{where}: annotations[{i}]")
        x, y, width, height = region.box
        regions.append(Detection((x, y, x + width, y + height), region.score, mask=region.mask))
    return regions
