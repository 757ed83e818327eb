"""Stand-ins for parts of the package that another branch adds: JSON form and released exports."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from glamm_jax.grand import record as record_module
from glamm_jax.grand.record import GrandCaption, GrandObject, GrandRecord


def _object(item: GrandObject) -> dict[str, Any]:
    optional = {
        "id": item.id,
        "score": item.score,
        "label": item.label,
        "depth": item.depth,
        "segmentation": item.mask,
        "segmentation_source": item.mask_source,
        "votes": [[vote.source, vote.text, vote.score] for vote in item.votes] or None,
    }
    attributes = None if item.attributes is None else list(item.attributes)
    value = {"bbox": list(item.box), "labels": list(item.labels), "attributes": attributes}
    return value | {key: part for key, part in optional.items() if part is not None}


def _caption(caption: GrandCaption, single: bool) -> dict[str, Any]:
    details = []
    for item in caption.groundings:
        ids, boxes = list(item.object_ids), [box and list(box) for box in item.boxes]
        span = item.span and list(item.span)
        objects = {"id": ids[0], "bbox": boxes[0]} if single else {"ids": ids, "bbox": boxes}
        details.append({"phrase": item.phrase, "tokens_positive": span, **objects})
    return {"caption": caption.caption, "details": details}


def _to_json(record: GrandRecord) -> dict[str, Any]:
    links = [{"phrase": x.phrase, "object_ids": list(x.object_ids)} for x in record.links]
    value: dict[str, Any] = {
        "objects": [_object(item) for item in record.objects],
        "floating_objects": [_object(item) for item in record.floating_objects],
        "floating_attributes": [_object(item) for item in record.floating_attributes],
        "landmark": record.landmark or "",
        "affordances": record.affordances,
        "id_counter": record.id_counter,
        "relationships": {
            "object_ids": list(record.linked_ids),
            "floating_object_ids": list(record.linked_floating_ids),
            "grounding": links,
        },
    }
    if record.short_captions is not None:
        value["short_captions"] = [_caption(item, True) for item in record.short_captions]
    if record.dense_caption is not None:
        value["dense_caption"] = _caption(record.dense_caption, False)
    if record.additional_context is not None:
        value["additional_context"] = record.additional_context
    if record.verified is not None:
        value["checks"] = {"verified": record.verified}
    return value


@dataclass(frozen=True)
class _Options:
    skip_missing: bool = True


def _export_referring(record: GrandRecord, options: _Options) -> list[dict[str, Any]] | None:
    if not options.skip_missing and any(x.mask is None for x in record.objects if x.attributes):
        return None
    return [
        {"attribute": text, "id": x.id, "bbox": list(x.box), "segmentation": x.mask}
        for x in record.objects
        if x.mask is not None
        for text in (x.attributes or ())[:1]
    ]


def _export_captions(record: GrandRecord, options: _Options) -> list[dict[str, Any]] | None:
    masks = {item.id: item.mask for item in record.objects}
    result = []
    for caption in record.short_captions or ():
        value = _caption(caption, True)
        for detail in value["details"]:
            detail["segmentation"] = masks.get(detail["id"])
        result.append(value)
    return result


def _add_module(name: str, **contents: Any) -> None:
    if importlib.util.find_spec(name) is None:
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module


try:
    GrandRecord().to_json()
except NotImplementedError:
    GrandRecord.to_json = _to_json
    vars(record_module).setdefault("changed", replace)
_add_module("glamm_jax.grand.options", ReleasedExportOptions=_Options)
_add_module(
    "glamm_jax.grand.released_export",
    export_referring=_export_referring,
    export_captions=_export_captions,
)
