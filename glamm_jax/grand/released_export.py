"""The three files per image that the released training code reads.

    options = ReleasedExportOptions()
    export_objects(record)              # [{"bbox", "labels", ...}]
    export_referring(record, options)   # [{"attribute", "id", "bbox", "segmentation"}]
    export_captions(record, options)    # [{"caption", "details": [{..., "segmentation"}]}]

Source: GranD/prepare_annotations.
"""

from __future__ import annotations

import re
from typing import Any

from glamm_jax.grand.attributes import remove_prefix
from glamm_jax.grand.options import ReleasedExportOptions
from glamm_jax.grand.record import Box, GrandObject, GrandRecord, PhraseGrounding, RunLengths

_ANYWHERE = re.compile(r"(?:ass)?istant:?\s*", re.IGNORECASE)


def export_objects(record: GrandRecord) -> list[dict[str, Any]]:
    """Return the objects as they are."""
    return [item.to_json() for item in record.objects]


def export_referring(
    record: GrandRecord, options: ReleasedExportOptions
) -> list[dict[str, Any]] | None:
    """Return the attributes of objects with their masks.

    Of several attributes those count that contain a label of the object; if none does, the first.

    Args:
        record: after the masks.
        options: how attributes are cleaned and compared.

    Returns:
        One entry for each; None if an object has no mask and `options.skip_missing` is off.
    """
    entries: list[dict[str, Any]] = []
    for item in record.objects:
        if not item.attributes:
            continue
        if item.mask is None:
            if not options.skip_missing:
                return None
            continue
        entries += [
            {
                "attribute": text,
                "id": item.id,
                "bbox": list(item.box),
                "segmentation": item.mask,
            }
            for text in _expressions(item, options)
        ]
    return entries


def _expressions(item: GrandObject, options: ReleasedExportOptions) -> list[str]:
    texts = [
        remove_prefix(text) if options.prefix_only else _ANYWHERE.sub("", text)
        for text in item.attributes or ()
    ]
    if len(texts) < 2:
        return texts
    labels = [label.replace("_", " ") for label in item.labels]
    if options.any_case:
        labels = [label.lower() for label in labels]
    named = [
        text
        for text in texts
        if any(label in (text.lower() if options.any_case else text) for label in labels)
    ]
    return named or texts[:1]


def export_captions(
    record: GrandRecord, options: ReleasedExportOptions
) -> list[dict[str, Any]] | None:
    """Return the short captions with the masks of their phrases.

    Args:
        record: after the masks.
        options: which masks.

    Returns:
        One entry for each; None if an object of a phrase has no mask and `options.skip_missing` is
        off.
    """
    masks: dict[int, RunLengths | None] = {}
    for item in record.objects:
        masks.setdefault(item.id, item.mask)
    if options.float_masks:
        for item in record.floating_objects:
            masks.setdefault(item.id, item.mask)
    entries: list[dict[str, Any]] = []
    for caption in record.short_captions or ():
        details: list[dict[str, Any]] = []
        for grounding in caption.groundings:
            pairs = list(zip(grounding.object_ids, grounding.boxes, strict=False))
            for number, box in pairs if options.every_object else pairs[:1]:
                if number in masks and masks[number] is None and not options.skip_missing:
                    return None
                details.append(_detail(grounding, number, box, masks.get(number)))
        entries.append({"caption": caption.caption, "details": details})
    return entries


def _detail(
    grounding: PhraseGrounding, number: int, box: Box | None, mask: RunLengths | None
) -> dict[str, Any]:
    return {
        "phrase": grounding.phrase,
        "tokens_positive": None if grounding.span is None else list(grounding.span),
        "id": number,
        "bbox": None if box is None else list(box),
        "segmentation": mask,
    }
