"""What GranD says about a picture, whichever file it comes from, as annotations of a draft."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glamm_jax.data.sources.record_builder import RecordBuilder
from glamm_jax.data.sources.source_files import (
    REPEATED_EXPRESSION,
    DefectLog,
    Fields,
    as_fields,
    as_list,
    as_text,
    find_image,
    quoted,
)

# What a language model said in front of its answer, whole or cut.
SPEAKER = re.compile(r"^\s*(?:ass)?istant\s*:\s*", re.IGNORECASE)


def data_folder(root: Path) -> Path:
    """GranD's own folder, given itself or by the one that holds it."""
    inner = root / "GranD_Data"
    return inner if inner.is_dir() else root


def image_path(folder: Path, name: str) -> Path | None:
    """Where a picture lies in GranD's folder."""
    return find_image(folder, ["images"], name)


def expressions(item: Fields, notes: DefectLog, where: str) -> list[str]:
    """The attributes of an object that describe it: those that name it, else the first.

    `attributes` is a text, a list of texts or null; labels are written_so.
    Source: GranD/prepare_annotations/prepare_grand_referring_expression.py.
    """
    listed = item.get("attributes")
    listed = [listed] if isinstance(listed, str) else as_list(listed, notes, f"{where}, attributes")
    texts = [clean_expression(value, notes, f"{where}, attribute") for value in listed]
    texts = list(dict.fromkeys(text for text in texts if text))
    labels = item.get("labels")
    labels = [*(labels if isinstance(labels, list) else []), item.get("label")]
    names = [label.replace("_", " ").lower() for label in labels if isinstance(label, str)]
    named = [text for text in texts if any(name and name in text.lower() for name in names)]
    return named or texts[:1]


def clean_expression(value: Any, notes: DefectLog, where: str) -> str:
    """An attribute without the speaker before it; "" and a defect where nothing is left."""
    text = as_text(value, notes, where)
    return as_text(SPEAKER.sub("", text).strip(), notes, where) if text else ""


def describe(draft: RecordBuilder, described: Iterable[tuple[str, int]]) -> None:
    """Each text and region: a description of the region's box, and an expression for its mask.

    A text of several regions is one expression, which means all of them.
    """
    meant: dict[str, list[int]] = {}
    spelled: dict[str, str] = {}
    for text, region in described:
        if draft.box_of(region) is not None:
            draft.annotate("region", text, [region])
        if draft.has_mask(region):
            meant.setdefault(text.lower(), []).append(region)
            spelled.setdefault(text.lower(), text)
    for key, regions in meant.items():
        if len(regions) > 1:
            draft.notes.add(REPEATED_EXPRESSION, f"{quoted(spelled[key])}: {len(regions)} regions")
        draft.annotate("referring", spelled[key], regions)


def add_captions(draft: RecordBuilder, captions: Any, where: str) -> None:
    """Short captions as captions of the whole picture; their groundings are not used."""
    for i, item in enumerate(as_list(captions, draft.notes, where)):
        name = f"{where} {i}"
        fields = as_fields(item, draft.notes, name)
        text = as_text(fields.get("caption"), draft.notes, name).strip() if fields else ""
        if text:
            draft.annotate("caption", text)
