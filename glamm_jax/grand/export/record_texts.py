"""Texts of a record that several exporters use."""

from __future__ import annotations

from glamm_jax.data.sources.defects import DefectLog
from glamm_jax.data.sources.grand_texts import object_expressions
from glamm_jax.grand.record import GrandObject, GrandRecord


def expressions(item: GrandObject, log: DefectLog | None = None, where: str = "") -> list[str]:
    """Return the attributes of an object that are its referring expressions.

    Args:
        item: the object.
        log: for the defects of its attributes.
        where: place of the object, for defects.
    """
    fields = {
        "attributes": None if item.attributes is None else list(item.attributes),
        "labels": list(item.labels),
        "label": item.label,
    }
    return object_expressions(fields, log or DefectLog(""), where)


def short_texts(record: GrandRecord) -> list[str]:
    """Return the short captions, with or without groundings; empty ones are left out."""
    if record.short_captions is None:
        texts = record.captions
    else:
        texts = tuple(caption.caption for caption in record.short_captions)
    return [text.strip() for text in texts if text.strip()]
