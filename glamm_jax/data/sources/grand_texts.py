"""Texts of GranD, from its JSON files or its LMDBs, as annotations of a record."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glamm_jax.data.sources.dataset_files import find_image
from glamm_jax.data.sources.defects import REPEATED_EXPRESSION, DefectLog, quoted
from glamm_jax.data.sources.json_files import Fields, as_fields, as_list, as_text
from glamm_jax.data.sources.record_builder import RecordBuilder

# The speaker before the answer of a language model, complete or cut.
SPEAKER = re.compile(r"^\s*(?:ass)?istant\s*:\s*", re.IGNORECASE)


def data_folder(root: Path) -> Path:
    """Return GranD's own folder; `root` is that folder or its parent."""
    inner = root / "GranD_Data"
    return inner if inner.is_dir() else root


def image_path(folder: Path, name: str) -> Path | None:
    """Return the path of an image below GranD's folder; None if there is no such file."""
    return find_image(folder, ["images"], name)


def object_expressions(item: Fields, log: DefectLog, where: str) -> list[str]:
    """Return the attributes that describe an object: those that contain its label, else the first.

    Args:
        item: fields of the object. `attributes` is a text, a list of texts or null; labels are
            written_like_this.
        log: for defects.
        where: place of the object, for defects.

    Source: GranD/prepare_annotations/prepare_grand_referring_expression.py.
    """
    attributes = item.get("attributes")
    if isinstance(attributes, str):
        attributes = [attributes]
    attributes = as_list(attributes, log, f"{where}, attributes")
    texts = [clean_expression(value, log, f"{where}, attribute") for value in attributes]
    texts = list(dict.fromkeys(text for text in texts if text))
    labels = item.get("labels")
    labels = [*(labels if isinstance(labels, list) else []), item.get("label")]
    names = [label.replace("_", " ").lower() for label in labels if isinstance(label, str)]
    naming = [text for text in texts if any(name and name in text.lower() for name in names)]
    return naming or texts[:1]


def clean_expression(value: Any, log: DefectLog, where: str) -> str:
    """Return an attribute without the speaker before it; "" and a defect if nothing is left.

    Args:
        value: the attribute, from a file.
        log: for the defect.
        where: place of the attribute, for the defect.
    """
    text = as_text(value, log, where)
    return as_text(SPEAKER.sub("", text).strip(), log, where) if text else ""


def add_expressions(builder: RecordBuilder, expressions: Iterable[tuple[str, int]]) -> None:
    """Add each text both as the caption of its region's box and as a referring expression.

    A text of several regions is one referring expression, which refers to all of them.

    Args:
        builder: of the record.
        expressions: texts with the index of their region.
    """
    regions_by_text: dict[str, list[int]] = {}  # lower-cased text -> regions
    spelling: dict[str, str] = {}  # lower-cased text -> text
    for text, region in expressions:
        if builder.region_box(region) is not None:
            builder.add_annotation("region", text, [region])
        if builder.has_mask(region):
            regions_by_text.setdefault(text.lower(), []).append(region)
            spelling.setdefault(text.lower(), text)
    for key, regions in regions_by_text.items():
        if len(regions) > 1:
            where = f"{quoted(spelling[key])}: {len(regions)} regions"
            builder.log.add(REPEATED_EXPRESSION, where)
        builder.add_annotation("referring", spelling[key], regions)


def add_short_captions(builder: RecordBuilder, captions: Any, where: str) -> None:
    """Add short captions as captions of the complete image; their groundings are not used.

    Args:
        builder: of the record.
        captions: a list of objects, from a file.
        where: name of a caption, for defects.
    """
    for i, item in enumerate(as_list(captions, builder.log, where)):
        place = f"{where} {i}"
        fields = as_fields(item, builder.log, place)
        text = as_text(fields.get("caption"), builder.log, place).strip() if fields else ""
        if text:
            builder.add_annotation("caption", text)
